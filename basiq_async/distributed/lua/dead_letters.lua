#!lua flags=allow-oom
-- Invariant: a page of dead letters is read at one moment, so that a dropped one hides no other. ARGV: the number after
-- which the page begins, and the most dead letters. Returns id, number and text of each.
local page = {}
local found = redis.call('ZRANGEBYSCORE', numbers, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #found, 2 do
  page[#page + 1] = { found[i], found[i + 1], redis.call('HGET', dead_letters, found[i]) }
end
return page
