-- KEYS: entry, letter, retry, failures, order. ARGV: token.
local function holder(key)
  local held = redis.call('GET', key)
  return held and string.match(held, '^%d+:(.*)$')
end
if redis.call('GET', KEYS[1]) == 'held:' .. ARGV[1] then
  redis.call('DEL', KEYS[1])
end
if holder(KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
return 0
