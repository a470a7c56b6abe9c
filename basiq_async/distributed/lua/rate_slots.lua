#!lua flags=allow-oom
-- Invariant: the slots of all callers are never closer than the rate allows, and unused time gives no extra slots.
-- ARGV: the number of slots. Returns the server's time, the first slot and the interval of slots, in microseconds.
local rate = tonumber(job('rate') or '')
if not rate then
  return {}
end
local micros = clock[1] * 1000000 + clock[2]
local interval = 1000000 / rate
local following, asked = tonumber(job('slot') or 0), tonumber(job('slot_at') or 0)
if micros < asked then -- the server's clock was set back: what was ahead of it is as far ahead of it now
  following = following - (asked - micros)
end
if job('slot_rate') ~= job('rate') then -- slots of the former rate are dropped by those who have them
  following = math.min(following, micros + interval)
end
local first = math.max(micros, following)
following = whole(first + interval * tonumber(ARGV[1]))
redis.call('HSET', base, 'slot', following, 'slot_at', whole(micros), 'slot_rate', job('rate'))
return { whole(micros), whole(first), tostring(interval) }
