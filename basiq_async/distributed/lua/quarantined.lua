#!lua flags=allow-oom
-- Invariant: a page of the quarantine is read at one moment, so that a dropped entry hides no other. ARGV: the number
-- after which the page begins, and the most entries. Returns id, number and text of each.
local page = {}
local found = redis.call('ZRANGEBYSCORE', numbers, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #found, 2 do
  page[#page + 1] = { found[i], found[i + 1], redis.call('HGET', quarantine, found[i]) }
end
return page
