-- ARGV: token, lease in ms, how long to remember an expired holder of a delivery in ms, and the attempts. Returns the
-- status, the holder and what remains of its lease in ms; of a claim, how many attempts before it had no end.
local held = redis.call('GET', entry)
if held == 'done' then
  return {'done', '', 0}
end
if redis.call('EXISTS', delivery) == 1 then
  return is_acknowledged(delivery) and {'done', '', 0}
    or claim_delivery(retry, ARGV[1], ARGV[2], ARGV[3], ARGV[4])
end
local token = 'held:' .. ARGV[1]
if held and held ~= token then
  return {'busy', string.sub(held, 6), redis.call('PTTL', entry)}
end
redis.call('SET', entry, token, 'PX', ARGV[2])
return {'claimed', '', 0, begin(attempts, ARGV[1], ARGV[4])}
