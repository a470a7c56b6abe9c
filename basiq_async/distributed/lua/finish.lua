#!lua flags=allow-oom
-- Invariant: a segment is removed only after the next one of its list is recorded. What was read and is not recorded as
-- finished was not chosen, by whichever worker came to it. The job finishes with its last segment. A worker that counts what
-- is left at a service does so after the end of all other segments.
-- ARGV: segment, token, 1 if the worker counts, then its counts if it has them: what waits, and what failed.
local id, token, counts = ARGV[1], ARGV[2], ARGV[3] == '1'
if not owns(id, token) then
  return { 'lost' }
end
local read, done = unpack(redis.call('HMGET', segment_key(id), 'read', 'done'))
if not read then
  return { 'unread' } -- the server lost the page: it has to be recorded again
end
local is_last = job('lists_left') == '0' and redis.call('ZCARD', due) == 1
if counts and is_last then
  if not ARGV[4] or not job('counting') then
    redis.call('HSET', base, 'counting', 1) -- until another segment is added
    return { 'uncounted' }
  end
  redis.call('HSET', base, 'waiting', ARGV[4], 'at_service', ARGV[5])
end
if tonumber(read) > tonumber(done or 0) then
  redis.call('HINCRBY', base, 'n:skipped:where', whole(read - (done or 0)))
end
redis.call('HINCRBY', base, 'n:read', read)
redis.call('DEL', segment_key(id), segment_key(id) .. ':d')
redis.call('ZREM', due, id)
local state = job('state')
if is_last and (state == 'running' or state == 'paused') then
  set_state('finished', '')
end
return { 'finished' }
