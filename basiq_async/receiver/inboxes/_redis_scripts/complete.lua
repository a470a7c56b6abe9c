-- ARGV: token, how long to remember in ms. Returns 1 if it recorded the key, else 0.
if redis.call('EXISTS', delivery) == 1 then
  local holder, remaining = holder_of(retry)
  if holder and holder ~= ARGV[1] and remaining > 0 then
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
record(entry, ARGV[2])
redis.call('DEL', attempts)
return 1
