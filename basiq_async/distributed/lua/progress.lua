#!lua flags=allow-oom
-- Invariant: the counts include finished and open segments, as of one moment. Returns the job's fields, the counts of
-- open segments, five numbers, and the workers that looked at the job within its lease.
local found = redis.call('HGETALL', base)
if #found == 0 then
  return {}
end
local open = redis.call('ZRANGE', due, 0, -1)
local held, counts = 0, {}
for _, id in ipairs(open) do
  local fields = redis.call('HGETALL', segment_key(id))
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'o:' then
      counts[#counts + 1] = string.sub(fields[i], 3)
      counts[#counts + 1] = fields[i + 1]
    elseif fields[i] == 'until' and tonumber(fields[i + 1]) > now then
      held = held + 1
    end
  end
end
local since = whole(now - math.min(60000, math.max(2000, tonumber(job('lease')))))
local alive = redis.call('ZRANGEBYSCORE', workers, since, '+inf', 'LIMIT', 0, 1000)
return { found, counts, { whole(now), #open, held, redis.call('HLEN', dead_letters), pause_left() }, alive }
