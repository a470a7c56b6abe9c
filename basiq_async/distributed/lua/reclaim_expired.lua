-- Keeps true: a segment whose lease ran out, or whose notification was lost, is told to one caller, again and again
-- until it is claimed; where it only waits in a queue, ever more rarely, so that notifications do not pile up. ARGV: most
-- segments, milliseconds until they may be told again, 1 for those as well that were told lately.
local state = job('state')
if state ~= 'running' then
  return { state or 'gone' }
end
local told = { state }
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', due, whole(now + tonumber(ARGV[2])), id)
  local times = redis.call('EXISTS', segment_key(id)) == 1 and redis.call('HINCRBY', segment_key(id), 'told', 1) or 1
  if ARGV[3] == '1' or math.frexp(times) == 0.5 then -- the first time, the second, the fourth, the eighth …
    told[#told + 1] = id
  end
end
return told
