#!lua flags=allow-oom
-- Keeps true: a job moves between its states along these lines only. ARGV: action, reason.
local action, reason = ARGV[1], ARGV[2]
local state = job('state')
if not state then
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
redis.call('HSET', base, 'state', to, 'reason', reason)
if to ~= 'running' then
  if to ~= 'paused' then
    redis.call('HSET', base, 'ended', whole(now))
  end
  return { to }
end
redis.call('HSET', base, 'row', 0)
redis.call('HDEL', base, 'hold', 'problem', 'ended')
local found = redis.call('ZRANGE', due, 0, -1)
for _, id in ipairs(found) do
  redis.call('HSET', segment_key(id), 'tries', 0)
end
if #found == 0 then
  redis.call('HSET', base, 'state', 'finished', 'ended', whole(now))
  return { 'finished' }
end
return { to, unpack(found) }
