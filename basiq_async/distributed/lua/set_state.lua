#!lua flags=allow-oom
-- Invariant: a job changes its state only as the table says. A pause that the target asked for is no state: it goes on
-- through every change, as the workers that heard of it do. ARGV: action, reason.
local action, reason = ARGV[1], ARGV[2]
local state = job('state')
if not state or is_another() then
  return { 'gone' }
end
local from = {
  pause = { running = 'paused' },
  resume = { paused = 'running', failed = 'running', cancelled = 'running' },
  cancel = { running = 'cancelled', paused = 'cancelled', failed = 'cancelled' },
  fail = { running = 'failed' },
}
local to = from[action][state]
if not to then
  return { state }
end
set_state(to, reason)
if to ~= 'running' then
  return { to }
end
redis.call('HSET', base, 'row', 0)
redis.call('HDEL', base, 'problem')
local found = redis.call('ZRANGE', due, 0, -1)
for _, id in ipairs(found) do
  redis.call('HSET', segment_key(id), 'tries', 0)
  redis.call('HDEL', segment_key(id), 'notified')
end
if #found == 0 then
  set_state('finished', '')
  return { 'finished' }
end
table.insert(found, 1, to)
return found
