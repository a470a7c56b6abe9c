-- Invariant: the next segment is recorded, once, before any message of the page is handled. ARGV: segment, token, lease,
-- number of messages, 1 if a next page exists, its cursor, where the page begins, and its last ids as JSON.
local id, token, lease, more = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5] == '1'
if not owns(id, token) then
  return { 'lost' }
end
local s = segment_key(id)
local known = redis.call('HEXISTS', s, 'read') == 1
redis.call('HSET', s, 'read', ARGV[4]) -- what a later owner reads of the page may be more, or less
renew(id, lease)
if known then
  return { 'ok', '' }
end
redis.call('HSET', s, 'edge', ARGV[8])
if not more then
  redis.call('HINCRBY', base, 'lists_left', -1)
  return { 'ok', '' }
end
local list_name, index = string.match(id, '^(.*)%.(%d+)$')
local following = add_segment(list_name, whole(index + 1), ARGV[6], now + lease)
redis.call('HSET', segment_key(following), 'before', ARGV[7], 'after', ARGV[8])
local upto = redis.call('HGET', s, 'upto')
if upto then
  redis.call('HSET', segment_key(following), 'upto', upto)
end
return { 'ok', following }
