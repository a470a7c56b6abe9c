-- ARGV: token, lease in ms, how long to remember an expired holder in ms, webhook, limit, then for each key what due has.
-- Returns what due had and the texts of those that it claimed. What Redis has evicted waits no longer.
local claimed = {}
for number = 1, #ARGV - 5 do
  local letter, retry = KEYS[4 * number + 1], KEYS[4 * number + 2]
  local due, webhook, text = unpack(redis.call('HMGET', letter, 'due', 'webhook', 'text'))
  local holder, remaining = holder_of(retry)
  if due ~= ARGV[5 + number] or webhook ~= ARGV[4] then
    end_wait(ARGV[4], ARGV[5 + number])
  elseif #claimed < 2 * ARGV[5] and not (holder and remaining > 0) then
    claim_letter(retry, ARGV[1], ARGV[2], ARGV[3])
    claimed[#claimed + 1] = due
    claimed[#claimed + 1] = text
  end
end
return claimed
