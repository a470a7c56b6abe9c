#!lua flags=allow-oom
-- Keeps true: over all callers no two turns are closer than the rate allows, however far ahead they are, and time that
-- nobody used is not made up for. ARGV: turns. Returns the server's time, the first turn and the distance of turns, in
-- microseconds.
local rate = tonumber(job('rate') or '')
if not rate then
  return {}
end
local micros = clock[1] * 1000000 + clock[2]
local distance = 1000000 / rate
local following, asked = tonumber(job('turn') or 0), tonumber(job('turn_at') or 0)
if micros < asked then -- the server's clock was set back: what was ahead of it is as far ahead of it now
  following = following - (asked - micros)
end
if job('turn_rate') ~= job('rate') then -- turns of the former rate are dropped by those who have them
  following = math.min(following, micros + distance)
end
local first = math.max(micros, following)
following = whole(first + distance * tonumber(ARGV[1]))
redis.call('HSET', base, 'turn', following, 'turn_at', whole(micros), 'turn_rate', job('rate'))
return { whole(micros), whole(first), tostring(distance) }
