-- ARGV: webhook, place, attempts, text, how long to remember an expired holder in ms. Returns 1 where it stored it.
local held = redis.call('GET', entry)
if held == 'done' then
  return 0
end
if redis.call('EXISTS', letter) == 1 then
  if is_acknowledged(letter) or redis.call('HEXISTS', letter, 'due') == 1 then
    return 0
  end
  take_out(letter)
elseif held then -- the claim stays
  claim_letter(retry, string.sub(held, 6), redis.call('PTTL', entry), ARGV[5])
  redis.call('DEL', entry)
end
begin_wait(letter, ARGV[1], now_in_us(), ARGV[2], ARGV[3], ARGV[4])
return 1
