-- KEYS: entry, letter, retry, failures, order. ARGV: how long to remember in ms. Returns 1 where there was a letter.
local place = redis.call('HGET', KEYS[2], 'place')
if not place then
  return 0
end
redis.call('ZREM', KEYS[5], place)
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
redis.call('SET', KEYS[1], 'done', 'PX', ARGV[1])
return 1
