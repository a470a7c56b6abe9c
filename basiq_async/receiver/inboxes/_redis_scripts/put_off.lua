-- ARGV: token, us until it is due, and if it is changed: place, attempts, text. Returns 1 where it put it off.
local due, webhook, place, text = unpack(redis.call('HMGET', letter, 'due', 'webhook', 'place', 'text'))
if not due or holder_of(retry) ~= ARGV[1] then
  return 0
end
local fresh = redis.call('ZSCORE', backlog, 'f' .. webhook .. string.sub(place, 18)) and '0' or '1'
take_out(letter)
redis.call('DEL', retry)
begin_wait(letter, webhook, now_in_us() + ARGV[2], ARGV[3] or place, ARGV[4] or fresh, ARGV[5] or text)
return 1
