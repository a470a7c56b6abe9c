-- ARGV: for each key its place in the quarantine's order. Takes it out of the order if Redis has evicted the delivery.
for number = 1, #ARGV do
  if redis.call('EXISTS', KEYS[4 * number]) == 0 then
    redis.call('ZREM', order, ARGV[number])
  end
end
return 0
