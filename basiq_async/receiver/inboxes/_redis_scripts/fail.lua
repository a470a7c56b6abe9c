-- KEYS: entry, letter, retry, failures, order. ARGV: token, how long to remember in ms. Returns the failures so far.
local function holder(key)
  local held = redis.call('GET', key)
  return held and string.match(held, '^%d+:(.*)$')
end
local before = tonumber(redis.call('GET', KEYS[4]) or '0')
if redis.call('EXISTS', KEYS[2]) == 1 then
  if holder(KEYS[3]) ~= ARGV[1] then
    return 0
  end
  redis.call('DEL', KEYS[3])
  before = math.max(before, tonumber(redis.call('HGET', KEYS[2], 'failures')))
else
  local entry = redis.call('GET', KEYS[1])
  if entry == 'done' then
    return 0
  end
  if entry == 'held:' .. ARGV[1] then
    redis.call('DEL', KEYS[1])
  end
end
redis.call('SET', KEYS[4], before + 1, 'PX', ARGV[2])
return before + 1
