-- KEYS: entry, letter, retry, failures, order. ARGV: token, place in the order, failures, text. Returns 1 where it recorded it.
local function holder(key)
  local held = redis.call('GET', key)
  return held and string.match(held, '^%d+:(.*)$')
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  if holder(KEYS[3]) ~= ARGV[1] then
    return 0
  end
  redis.call('ZREM', KEYS[5], redis.call('HGET', KEYS[2], 'place'))
  redis.call('DEL', KEYS[3])
else
  local entry = redis.call('GET', KEYS[1])
  if entry and entry ~= 'held:' .. ARGV[1] then
    return 0
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'place', ARGV[2], 'failures', ARGV[3], 'text', ARGV[4])
redis.call('ZADD', KEYS[5], 0, ARGV[2])
return 1
