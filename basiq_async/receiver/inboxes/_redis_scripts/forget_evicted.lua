-- ARGV: for each key its place in the quarantine's order. Takes it out of the order if Redis has evicted the delivery.
-- Returns how many it took out.
local evicted = 0
for number = 1, #ARGV do
  if redis.call('EXISTS', KEYS[4 * number]) == 0 then
    evicted = evicted + redis.call('ZREM', order, ARGV[number])
  end
end
return evicted
