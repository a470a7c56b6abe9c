-- ARGV: token. Returns 0.
if redis.call('GET', entry) == 'held:' .. ARGV[1] then
  redis.call('DEL', entry)
end
if holder_of(retry) == ARGV[1] then
  redis.call('DEL', retry)
end
finish(attempts, ARGV[1])
return 0
