-- Invariant: each present dead letter is retried once; dead letters that a segment is to retry already stay with it.
-- ARGV: a random id of this request, so that a repeated request finds its segment. Returns the job's state, the segment, and
-- the number of dead letters to retry.
local state = job('state')
if not state then
  return { 'gone', '', 0 }
end
if job('revival') == ARGV[1] then
  return { state, job('revival_segment'), tonumber(job('revival_count')) }
end
local last = redis.call('ZREVRANGE', numbers, 0, 0, 'WITHSCORES')
if #last == 0 then
  return { state, '', 0 }
end
local from, lowest, id = 0, math.huge, nil
for _, each in ipairs(redis.call('ZRANGE', due, 0, -1)) do
  if string.sub(each, 1, 1) == 'd' then
    local place = redis.call('HMGET', segment_key(each), 'cursor', 'upto')
    lowest = math.min(lowest, tonumber(place[1]))
    if tonumber(place[2]) > from then
      from, id = tonumber(place[2]), each
    end
  end
end
lowest = math.min(lowest, from)
if tonumber(last[2]) > from then
  local list_name = 'd' .. redis.call('HINCRBY', base, 'revivals', 1)
  id = add_segment(list_name, 0, whole(from), now + tonumber(job('lease')))
  redis.call('HSET', segment_key(id), 'upto', last[2])
  redis.call('HINCRBY', base, 'lists_left', 1)
  redis.call('HSET', base, 'row', 0)
  if state == 'finished' then
    set_state('running', '')
    state = 'running'
  end
end
local count = redis.call('ZCOUNT', numbers, '(' .. whole(lowest), '+inf')
redis.call('HSET', base, 'revival', ARGV[1], 'revival_segment', id, 'revival_count', count)
return { state, id, count }
