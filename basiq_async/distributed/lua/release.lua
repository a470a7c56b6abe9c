#!lua flags=allow-oom
-- Keeps true: an owner that lets go in order leaves nothing interrupted, and its segment is there for the next one.
-- ARGV: segment, token, milliseconds until it may be told, problem, whether it waits for
-- something that is away.
local id, token = ARGV[1], ARGV[2]
if not owns(id, token) then
  return { 'lost' }
end
fold(id)
local s = segment_key(id)
redis.call('HDEL', s, 'owner', 'until')
redis.call('ZADD', due, whole(now + tonumber(ARGV[3])), id)
if ARGV[4] ~= '' then
  redis.call('HSET', base, 'problem', ARGV[4])
end
-- Only claims that nobody gave back count against a segment.
if tonumber(redis.call('HGET', s, 'tries')) > 0 then
  redis.call('HINCRBY', s, 'tries', -1)
end
if ARGV[5] == '1' then
  redis.call('HINCRBY', s, 'waits', 1)
end
return { 'ok' }
