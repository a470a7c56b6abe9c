-- ARGV: token, how long to remember in ms. For any number of keys. Returns the number of keys that it recorded.
local function take(entry, letter, retry)
  if redis.call('EXISTS', letter) == 1 then
    local holder, remaining = holder_of(retry)
    if holder and holder ~= ARGV[1] and remaining > 0 then
      return false
    end
    take_out(letter)
    redis.call('DEL', retry)
    return true
  end
  local held = redis.call('GET', entry)
  return not held or held == 'held:' .. ARGV[1]
end

local recorded = 0
for first = 3, #KEYS, 4 do
  local entry, letter, retry, failures = KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3]
  if take(entry, letter, retry) then
    record(entry, ARGV[2])
    redis.call('DEL', failures)
    recorded = recorded + 1
  end
end
return recorded
