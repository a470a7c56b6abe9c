-- KEYS: for each key its entry and delivery. Returns the numbers, from 0, of the keys that are handled or quarantined.
local found = {}
for first = 1, #KEYS, 2 do
  if redis.call('GET', KEYS[first]) == 'done' or redis.call('EXISTS', KEYS[first + 1]) == 1 then
    found[#found + 1] = (first - 1) / 2
  end
end
return found
