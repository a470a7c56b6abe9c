-- KEYS: entry, letter, retry, failures, order. ARGV: token, lease in ms. Returns the status, the holder and what remains of its lease in ms.
local entry = redis.call('GET', KEYS[1])
if entry == 'done' or redis.call('EXISTS', KEYS[2]) == 1 then
  return {'done', '', 0}
end
local token = 'held:' .. ARGV[1]
if entry and entry ~= token then
  return {'busy', string.sub(entry, 6), redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], token, 'PX', ARGV[2])
return {'claimed', '', 0}
