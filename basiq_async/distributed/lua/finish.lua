#!lua flags=allow-oom
-- Invariant: a segment is removed only after the next one of its list is recorded. The job finishes with its last one.
-- ARGV: segment, token.
local id, token = ARGV[1], ARGV[2]
if not owns(id, token) then
  return { 'lost' }
end
local s = segment_key(id)
if redis.call('HEXISTS', s, 'count') == 0 then
  return { 'unread' } -- the server lost the page: it has to be recorded again
end
fold(id)
redis.call('DEL', s, s .. ':d')
redis.call('ZREM', due, id)
redis.call('HINCRBY', base, 'segments', 1)
local state = job('state')
if job('lists_left') == '0' and redis.call('ZCARD', due) == 0 and (state == 'running' or state == 'paused') then
  set_state('finished', '')
end
return { 'ok' }
