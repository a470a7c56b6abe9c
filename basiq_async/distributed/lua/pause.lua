#!lua flags=allow-oom
-- Invariant: a pause that a target asks of one worker is for all. It can be lengthened, but not shortened: neither by
-- another pause, nor by a change of the job's state.
-- ARGV: milliseconds.
local ends = now + tonumber(ARGV[1])
if job('state') and not is_another() and ends > tonumber(job('paused_until') or 0) then
  redis.call('HSET', base, 'paused_until', whole(ends))
end
return pause_left()
