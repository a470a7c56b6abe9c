-- Keeps true: a segment whose lease ran out, or whose hint was lost, is given to one caller, again and again until it
-- is claimed. ARGV: most segments, milliseconds until they may be woken again.
local state = job('state')
if state ~= 'running' then
  return { state or 'gone' }
end
local found = redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(found) do
  redis.call('ZADD', due, whole(now + tonumber(ARGV[2])), id)
end
return { state, unpack(found) }
