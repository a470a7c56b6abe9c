#!lua flags=allow-oom
-- Invariant: no more messages are handled than the job's limit. If it is used up, and no ticket can come back, the job is
-- finished in front of this message. ARGV: segment, token, limit, message. Returns whether the message has a ticket.
local id, token, message = ARGV[1], ARGV[2], ARGV[4]
if not owns(id, token) then
  return { 'lost' }
end
local tickets = segment_key(id) .. ':t'
redis.call('HSETNX', base, 'limit_left', ARGV[3])
if redis.call('SISMEMBER', tickets, message) == 1 then
  return { 'ok', 1 }
end
if tonumber(job('limit_left')) > 0 then
  redis.call('SADD', tickets, message)
  give_back(-1)
  return { 'ok', 1 }
end
if tonumber(job('tickets') or 0) > 0 then
  return { 'ok', 0 }
end
for _, each in ipairs(redis.call('ZRANGE', due, 0, -1)) do
  if string.sub(each, 1, 1) ~= 'q' then
    remove(each, redis.call('HGET', segment_key(each), 'done') or 0)
  end
end
redis.call('HSET', base, 'lists_left', 0, 'cut', 1)
finish_if_done()
return { 'lost' }
