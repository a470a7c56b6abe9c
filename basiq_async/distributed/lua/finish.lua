#!lua flags=allow-oom
-- Invariant: a segment is removed only after the next one of its list is recorded. What was read and is not recorded as
-- finished was not chosen, by whichever worker came to it. The job finishes with its last segment. ARGV: segment, token.
local id, token = ARGV[1], ARGV[2]
if not owns(id, token) then
  return { 'lost' }
end
local read, done = unpack(redis.call('HMGET', segment_key(id), 'read', 'done'))
if not read then
  return { 'unread' } -- the server lost the page: it has to be recorded again
end
if tonumber(read) > tonumber(done or 0) then
  redis.call('HINCRBY', base, 'n:skipped:where', whole(read - (done or 0)))
end
redis.call('HINCRBY', base, 'n:read', read)
redis.call('DEL', segment_key(id), segment_key(id) .. ':d')
redis.call('ZREM', due, id)
local state = job('state')
if job('lists_left') == '0' and redis.call('ZCARD', due) == 0 and (state == 'running' or state == 'paused') then
  set_state('finished', '')
end
return { 'ok' }
