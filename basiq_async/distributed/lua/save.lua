#!lua flags=allow-oom
-- Invariant: only the owner records finished messages, with their counts and what is set aside, all or nothing, and once:
-- `before` is how many were recorded until now. An entry that was dropped while it was tried again does not come back.
-- ARGV: segment, token, lease, before, number of ids, ids as one text, handled, failed, most failures in a row (0 for no
-- limit), then lists, each after its length: counts (name, value); entries to set aside (id, text); ids of entries that
-- leave.
local id, token, before, handled, failed = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[7]), tonumber(ARGV[8])
local s = segment_key(id)
local owner, done = unpack(redis.call('HMGET', s, 'owner', 'done'))
if owner ~= token then
  return { 'lost' }
end
local recorded = tonumber(done or 0)
if recorded ~= before then
  return { 'recorded', recorded } -- the server lost earlier saves, or has this one already
end
redis.call('RPUSH', s .. ':d', ARGV[6])
renew(id, tonumber(ARGV[3]), 'done', whole(before + ARGV[5]), 'tries', 0)
local at = 10
local function list()
  local from, length = at + 1, tonumber(ARGV[at])
  at = from + length
  return from, at - 1
end
local from, to = list()
for i = from, to, 2 do
  redis.call('HINCRBY', base, 'n:' .. ARGV[i], ARGV[i + 1])
end
from, to = list()
local is_retry = string.sub(id, 1, 1) == 'q'
for i = from, to, 2 do
  local there = redis.call('HEXISTS', quarantine, ARGV[i]) == 1
  if not there and not is_retry then
    redis.call('ZADD', numbers, redis.call('HINCRBY', base, 'numbers', 1), ARGV[i])
  end
  if there or not is_retry then
    redis.call('HSET', quarantine, ARGV[i], ARGV[i + 1])
  end
end
local added = to >= from
from, to = list()
in_parts('HDEL', quarantine, from, to)
in_parts('ZREM', numbers, from, to)
local slot = 'at:' .. clock[1] % 12
local state, row, sample, handled_n, failed_n = unpack(redis.call('HMGET', base, 'state', 'row', slot, 'n:handled', 'n:failed'))
if handled + failed > 0 and string.sub(sample or '', 1, #clock[1]) ~= clock[1] then
  -- For the rate: how many were finished before the first save of each of the last twelve seconds.
  redis.call('HSET', base, slot, whole(now) .. ' ' .. whole((handled_n or 0) + (failed_n or 0) - handled - failed))
end
local most = tonumber(ARGV[9])
if handled > 0 and row ~= '0' then
  redis.call('HSET', base, 'row', 0)
elseif handled == 0 and failed > 0 then
  row = redis.call('HINCRBY', base, 'row', failed)
  if row >= most and most > 0 and state == 'running' then
    state = 'failed'
    set_state(state, row .. ' messages in a row failed; remove the cause, then resume the job and retry its quarantine')
  end
end
if added and state == 'running' then
  local there = redis.call('HLEN', quarantine)
  if there >= tonumber(job('most_quarantined')) then
    state = 'paused'
    set_state(state, there .. ' messages are in the quarantine, as many as the job may keep; export or retry them, ' ..
      'then resume it')
  end
end
return { 'ok', state, pause_left() }
