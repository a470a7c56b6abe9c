-- KEYS: retry, letter. ARGV: token, lease in ms. Returns the status, the holder and what remains of its lease in ms.
if redis.call('EXISTS', KEYS[2]) == 0 then
  return {'done', '', 0}
end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {'busy', holder, redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {'claimed', '', 0}
