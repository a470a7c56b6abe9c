#!lua flags=allow-oom
-- Invariant: a running or paused job is not forgotten; a forgotten job leaves no keys.
local state = job('state')
if state == 'running' or state == 'paused' then
  return { state }
end
for _, id in ipairs(redis.call('ZRANGE', due, 0, -1)) do
  redis.call('DEL', segment_key(id), segment_key(id) .. ':d')
end
redis.call('DEL', base, due, quarantine, numbers, workers)
redis.call('SREM', active, name)
redis.call('SREM', jobs, name)
return { 'gone' }
