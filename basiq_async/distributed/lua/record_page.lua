-- Invariant: a page is counted once, the next segment is recorded before any message of the page is handled, and the
-- job's limit is shared exactly. ARGV: segment, token, lease, count, last id, number of chosen and of other messages, next
-- cursor, 1 if a next page exists, limit, with a limit one digit for each message (0 if it was not chosen, 2 if it was
-- and does not count against the limit, else 1), problem, where the page begins, and its last ids as JSON.
local id, token, lease, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not owns(id, token) then
  return { 'lost' }
end
local s = segment_key(id)
if redis.call('HEXISTS', s, 'count') == 1 then
  return { 'ok', redis.call('HGET', s, 'quota'), '' }
end
local list_name, index = string.match(id, '^(.*)%.(%d+)$')
local quota, unchosen, more = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[9] == '1'
if ARGV[10] ~= '' then
  redis.call('HSETNX', base, 'limit_left', ARGV[10])
  local left = tonumber(job('limit_left'))
  local _, counted = string.gsub(ARGV[11], '1', '')
  if counted >= left then
    if counted > left or more then
      redis.call('HSET', base, 'cut', 1)
    end
    counted, quota, more, unchosen = left, 0, false, 0
    local seen = 0
    for i = 1, #ARGV[11] do
      if seen == left then
        break
      end
      local mark = string.sub(ARGV[11], i, i)
      if mark == '0' then
        unchosen = unchosen + 1
      else
        quota = quota + 1
        seen = seen + (mark == '1' and 1 or 0)
      end
    end
  end
  redis.call('HINCRBY', base, 'limit_left', -counted)
end
redis.call('HSET', s, 'count', whole(count), 'last', ARGV[5], 'quota', whole(quota))
redis.call('HINCRBY', base, 'n:read', whole(count))
if unchosen > 0 then
  redis.call('HINCRBY', base, 'n:skipped:where', whole(unchosen))
end
renew(id, lease)
if ARGV[12] ~= '' then
  redis.call('HSET', base, 'problem', ARGV[12])
end
if not more then
  redis.call('HINCRBY', base, 'lists_left', -1)
  return { 'ok', whole(quota), '' }
end
local following = add_segment(list_name, whole(index + 1), ARGV[8], now + lease)
local before, after = ARGV[13], ARGV[14]
if after == '' then -- the last message is on an earlier page
  before, after = redis.call('HGET', s, 'before'), redis.call('HGET', s, 'after')
end
if after then
  redis.call('HSET', segment_key(following), 'before', before or '', 'after', after)
end
local upto = redis.call('HGET', s, 'upto')
if upto then
  redis.call('HSET', segment_key(following), 'upto', upto)
end
return { 'ok', whole(quota), following }
