-- Invariant: each present entry of the quarantine is retried once; what a segment is to retry already stays with it.
-- ARGV: a random id of this request, so that a repeated request finds its segment. Returns the job's state and the segment.
local state = job('state')
if not state then
  return { 'gone', '' }
end
if job('retry') == ARGV[1] then
  return { state, job('retry_segment') }
end
local last = redis.call('ZREVRANGE', numbers, 0, 0, 'WITHSCORES')
if #last == 0 then
  return { state, '' }
end
local from, id = 0, nil
for _, each in ipairs(redis.call('ZRANGE', due, 0, -1)) do
  local upto = tonumber(redis.call('HGET', segment_key(each), 'upto') or 0)
  if upto > from then
    from, id = upto, each
  end
end
if tonumber(last[2]) > from then
  id = add_segment('q' .. redis.call('HINCRBY', base, 'retries', 1), 0, whole(from), now + 1000 * job('lease'))
  redis.call('HSET', segment_key(id), 'upto', last[2])
  redis.call('HINCRBY', base, 'lists_left', 1)
  redis.call('HSET', base, 'row', 0)
  if state == 'finished' then
    set_state('running', '')
    state = 'running'
  end
end
redis.call('HSET', base, 'retry', ARGV[1], 'retry_segment', id)
return { state, id }
