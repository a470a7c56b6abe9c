-- ARGV: token, place in the order, failures, text, 1 if it was acknowledged. Returns 1 where it stored it.
if redis.call('EXISTS', delivery) == 1 then
  local holder, remaining = holder_of(retry)
  if holder ~= ARGV[1] and (is_acknowledged(delivery) or (holder and remaining > 0)) then
    return 0
  end
  take_out(delivery)
  redis.call('DEL', retry)
else
  local held = redis.call('GET', entry)
  if held and held ~= 'held:' .. ARGV[1] then
    return 0
  end
end
redis.call('DEL', entry)
redis.call('HDEL', attempts, 'token')
redis.call('HSET', delivery, 'place', ARGV[2], 'failures', ARGV[3], 'text', ARGV[4], 'acknowledged', ARGV[5])
redis.call('ZADD', order, 0, ARGV[2])
note_record()
return 1
