-- ARGV: how long to remember in ms. Returns 1 where there was a letter.
if redis.call('EXISTS', letter) == 0 then
  return 0
end
redis.call('ZREM', order, redis.call('HGET', letter, 'place') or '')
redis.call('DEL', letter, retry, failures)
record(entry, ARGV[1])
return 1
