-- ARGV: webhook, the last one of the page before or '', limit. Returns what is due, in order: for each its
-- time, its bytes and its place.
local from = 'd' .. ARGV[1]
local upto = '(' .. from .. string.format('%016.0f', now_in_us() + 1)
local after = ARGV[2] == '' and '[' .. from or '(' .. from .. ARGV[2]
local found = redis.call('ZRANGEBYLEX', backlog, after, upto, 'LIMIT', 0, ARGV[3])
for number, member in ipairs(found) do
  found[number] = string.sub(member, #from + 1)
end
return found
