#!lua flags=allow-oom
-- Keeps true: a job that runs is not forgotten; of one that is, nothing stays.
local state = job('state')
if state == 'running' or state == 'paused' then
  return { state }
end
for _, id in ipairs(redis.call('ZRANGE', due, 0, -1)) do
  redis.call('DEL', segment_key(id), segment_key(id) .. ':d')
end
redis.call('DEL', base, due, dead_letters, numbers, workers)
redis.call('SREM', active, name)
redis.call('SREM', jobs, name)
return { 'gone' }
