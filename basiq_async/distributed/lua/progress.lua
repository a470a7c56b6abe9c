#!lua flags=allow-oom
-- Invariant: the counts are those of one moment. Returns the job's fields, six numbers, and the workers that looked at the
-- job within its lease.
local found = redis.call('HGETALL', base)
if #found == 0 then
  return {}
end
local open = redis.call('ZRANGE', due, 0, -1)
local held, read = 0, 0
for _, id in ipairs(open) do
  local fields = redis.call('HMGET', segment_key(id), 'until', 'read')
  held = held + (tonumber(fields[1] or 0) > now and 1 or 0)
  read = read + (fields[2] or 0)
end
local since = whole(now - math.min(60000, math.max(2000, 1000 * job('lease'))))
local alive = redis.call('ZRANGEBYSCORE', workers, since, '+inf', 'LIMIT', 0, 1000)
return { found, { whole(now), #open, held, read, redis.call('HLEN', quarantine), pause_left() }, alive }
