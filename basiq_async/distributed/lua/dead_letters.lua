#!lua flags=allow-oom
-- Keeps true: a page of dead letters is of one moment, so that one which somebody drops hides no other. ARGV: the number
-- they follow, and most dead letters. Returns id, number and text of each.
local page = {}
local found = redis.call('ZRANGEBYSCORE', numbers, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #found, 2 do
  page[#page + 1] = { found[i], found[i + 1], redis.call('HGET', dead_letters, found[i]) }
end
return page
