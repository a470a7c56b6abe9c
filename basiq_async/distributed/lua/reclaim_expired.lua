-- Invariant: a segment whose lease ran out, or whose notification was lost, is returned to one caller at a time until it
-- is claimed: the first time, the second, the fourth, the eighth and then each eighth, so that notifications do not pile
-- up in a queue. ARGV: the most segments, milliseconds until a segment may be returned again, the worker.
local state = job('state')
if state ~= 'running' then
  return { state or 'gone' }
end
record_worker(ARGV[3])
local found = { state }
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', due, whole(now + tonumber(ARGV[2])), id)
  local times = redis.call('EXISTS', segment_key(id)) == 1 and redis.call('HINCRBY', segment_key(id), 'notified', 1) or 1
  if times == 1 or times == 2 or times == 4 or times % 8 == 0 then
    found[#found + 1] = id
  end
end
return found
