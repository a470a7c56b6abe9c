-- ARGV: token, how long to remember in ms. Returns the failures so far.
local before = tonumber(redis.call('HGET', attempts, 'failures') or '0')
if redis.call('EXISTS', delivery) == 1 then
  local mine = holder_of(retry) == ARGV[1]
  if is_acknowledged(delivery) then
    if not mine then
      return 0
    end
    before = math.max(before, tonumber(redis.call('HGET', delivery, 'failures') or '0') or 0)
  end
  if mine then
    redis.call('DEL', retry)
  end
else
  local held = redis.call('GET', entry)
  if held == 'done' then
    return 0
  end
  if held == 'held:' .. ARGV[1] then
    redis.call('DEL', entry)
  end
end
finish(attempts, ARGV[1])
redis.call('HSET', attempts, 'failures', before + 1)
keep(attempts, ARGV[2])
return before + 1
