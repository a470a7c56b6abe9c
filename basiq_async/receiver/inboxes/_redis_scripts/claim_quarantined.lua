-- KEYS: entry, letter, retry, failures, order. ARGV: token, lease in ms, how long to remember an expired holder in ms.
-- Returns the status, the holder and what remains of its lease in ms.
if redis.call('EXISTS', KEYS[2]) == 0 then
  return {'done', '', 0}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('GET', KEYS[3])
if held then
  local ends, holder = string.match(held, '^(%d+):(.*)$')
  if holder ~= ARGV[1] and tonumber(ends) > now then
    return {'busy', holder, tonumber(ends) - now}
  end
end
redis.call('SET', KEYS[3], string.format('%.0f:', now + ARGV[2]) .. ARGV[1], 'PX', ARGV[2] + ARGV[3])
return {'claimed', '', 0}
