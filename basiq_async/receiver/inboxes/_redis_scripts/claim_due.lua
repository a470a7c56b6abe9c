-- ARGV: token, lease in ms, how long to remember an expired holder in ms, webhook, limit, then for each key when it was due.
-- Returns places and texts of those that it claimed.
local claimed = {}
for number = 1, #ARGV - 5 do
  local letter, retry = KEYS[4 * number + 1], KEYS[4 * number + 2]
  local due, webhook, place, text = unpack(redis.call('HMGET', letter, 'due', 'webhook', 'place', 'text'))
  local holder, remaining = holder_of(retry)
  if #claimed < 2 * ARGV[5] and due == ARGV[5 + number] and webhook == ARGV[4] and not (holder and remaining > 0) then
    claim_letter(retry, ARGV[1], ARGV[2], ARGV[3])
    claimed[#claimed + 1] = place
    claimed[#claimed + 1] = text
  end
end
return claimed
