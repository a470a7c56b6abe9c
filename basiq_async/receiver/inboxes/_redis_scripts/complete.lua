-- KEYS: entry, letter, retry, failures, order. ARGV: token, how long to remember in ms. Returns 1 where it recorded it.
local function holder(key)
  local held = redis.call('GET', key)
  return held and string.match(held, '^%d+:(.*)$')
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  if holder(KEYS[3]) ~= ARGV[1] then
    return 0
  end
  redis.call('ZREM', KEYS[5], redis.call('HGET', KEYS[2], 'place'))
  redis.call('DEL', KEYS[2], KEYS[3])
else
  local entry = redis.call('GET', KEYS[1])
  if entry and entry ~= 'held:' .. ARGV[1] then
    return 0
  end
end
redis.call('SET', KEYS[1], 'done', 'PX', ARGV[2])
redis.call('DEL', KEYS[4])
return 1
