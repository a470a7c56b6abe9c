-- Invariant: a segment has one owner at a time, and the results of a former owner are counted once.
-- ARGV: segment, token, lease, worker, width, most tries, selection.
local id, token, lease, worker, width = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local s = segment_key(id)
local state = job('state')
if not state or redis.call('EXISTS', s) == 0 then
  return { 'gone' }
end
if is_another() then
  return { 'another' } -- before the caller changes anything
end
if state ~= 'running' then
  return { 'stopped', state }
end
redis.call('HSETNX', base, 'where', ARGV[7])
if job('where') ~= ARGV[7] then
  return { 'selection', job('where') }
end
local owner = redis.call('HGET', s, 'owner')
if owner ~= token then -- a repeated request finds its own claim
  if owner and tonumber(redis.call('HGET', s, 'until')) > now then
    return { 'held' }
  end
  fold(id)
  if owner then
    redis.call('HINCRBY', base, 'takeovers', 1)
    redis.call('HINCRBY', base, 'interrupted', redis.call('HGET', s, 'width'))
  end
  if redis.call('HINCRBY', s, 'tries', 1) > tonumber(ARGV[6]) then
    local last = job('problem')
    fail('segment ' .. id .. ' was claimed ' .. ARGV[6] .. ' times and no message of it was finished; its last worker was ' ..
      (redis.call('HGET', s, 'worker') or 'unknown') .. (last and '; the last problem: ' .. last or ''))
    return { 'stopped', 'failed' }
  end
  redis.call('HSET', s, 'owner', token, 'width', width, 'worker', worker)
end
redis.call('HDEL', s, 'told')
renew(id, lease)
note_worker(worker)
local found = redis.call('HMGET', s, 'cursor', 'count', 'last', 'quota', 'upto', 'before', 'after')
return { 'ok', found, { job('rate') or '', pause_left() }, redis.call('LRANGE', s .. ':d', 0, -1) }
