#!lua flags=allow-oom
-- Keeps true: over all callers no two turns are closer than the rate allows, and time that nobody used is not made
-- up for. ARGV: turns. Returns the server's time, the first turn and the distance of turns, in microseconds.
local rate = tonumber(job('rate') or '')
if not rate then
  return {}
end
local micros = clock[1] * 1000000 + clock[2]
local distance = 1000000 / rate
local key = base .. ':pace'
local first = math.max(micros, tonumber(redis.call('GET', key) or 0))
if first > micros + 60000000 + distance then
  first = micros -- the server's clock was set back
end
redis.call('SET', key, whole(first + distance * tonumber(ARGV[1])), 'PX', whole(61000 + distance * 2 / 1000))
return { whole(micros), whole(first), tostring(distance) }
