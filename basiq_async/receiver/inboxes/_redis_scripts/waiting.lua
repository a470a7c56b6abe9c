-- ARGV: webhook. Returns how many wait, how many of them never failed, their bytes, and the age of the oldest in us, or -1.
local webhook = ARGV[1]
local function count(kind)
  return redis.call('ZLEXCOUNT', backlog, '[' .. kind .. webhook, '(' .. kind .. webhook .. '\255')
end
local oldest = redis.call('ZRANGEBYLEX', backlog, '[s' .. webhook, '(s' .. webhook .. '\255', 'LIMIT', 0, 1)[1]
local age = -1
if oldest then
  age = math.max(0, now_in_us() - string.sub(oldest, #webhook + 2, #webhook + 18))
end
return {count('s'), count('f'), tonumber(redis.call('HGET', meta, 'size:' .. webhook) or '0'), age}
