-- Invariant: a segment has one owner at a time.
-- ARGV: segment, token, lease, worker, most tries.
local id, token, lease, worker, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local s = segment_key(id)
local state = job('state')
if not state or redis.call('EXISTS', s) == 0 then
  return { 'gone' }
end
if is_another() then
  return { 'another' } -- before the caller changes anything
end
if state ~= 'running' then
  return { 'stopped' }
end
local owner = redis.call('HGET', s, 'owner')
if owner ~= token then -- a repeated request finds its own claim
  if owner and tonumber(redis.call('HGET', s, 'until')) > now then
    return { 'held' }
  end
  if owner then
    redis.call('HINCRBY', base, 'takeovers', 1)
  end
  if redis.call('HINCRBY', s, 'tries', 1) > most then
    local last = job('problem')
    set_state('failed', 'segment ' .. id .. ' was claimed ' .. most .. ' times and no message of it was finished; its ' ..
      'last worker was ' .. (redis.call('HGET', s, 'worker') or 'unknown') .. (last and '; the last problem: ' .. last or ''))
    return { 'stopped' }
  end
  redis.call('HSET', s, 'owner', token, 'worker', worker)
end
redis.call('HDEL', s, 'notified')
renew(id, lease)
record_worker(worker)
local found = redis.call('HMGET', s, 'cursor', 'before', 'after', 'edge', 'upto')
return { 'ok', found, { job('rate') or '', pause_left() }, redis.call('LRANGE', s .. ':d', 0, -1) }
