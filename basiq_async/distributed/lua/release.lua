#!lua flags=allow-oom
-- Invariant: after a release, another worker can claim the segment.
-- ARGV: segment, token, milliseconds until it may be returned again, problem.
local id, token = ARGV[1], ARGV[2]
if not owns(id, token) then
  return { 'lost' }
end
local s = segment_key(id)
redis.call('HDEL', s, 'owner', 'until')
redis.call('ZADD', due, whole(now + tonumber(ARGV[3])), id)
if ARGV[4] ~= '' then
  redis.call('HSET', base, 'problem', ARGV[4])
end
-- Only claims without a release count towards the limit of claims.
if tonumber(redis.call('HGET', s, 'tries')) > 0 then
  redis.call('HINCRBY', s, 'tries', -1)
end
return { 'ok' }
