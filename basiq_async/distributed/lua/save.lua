#!lua flags=allow-oom
-- Invariant: only the owner records finished messages, with their counts and what is set aside, all or nothing, and once:
-- `before` is how many were recorded until now. An entry that was dropped while it was tried again does not come back.
-- ARGV: segment, token, lease, before, number of ids, ids as one text, handled, failed, most failures in a row (0 for no
-- limit), then lists, each after its length: counts (name, value); entries to set aside (id, text); ids of entries that
-- leave; ids whose tickets are spent; ids whose tickets come back.
local id, token, before, handled, failed = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[7]), tonumber(ARGV[8])
if not owns(id, token) then
  return { 'lost' }
end
local s = segment_key(id)
local recorded = tonumber(redis.call('HGET', s, 'done') or 0)
if recorded ~= before then
  return { 'recorded', recorded } -- the server lost earlier saves, or has this one already
end
redis.call('RPUSH', s .. ':d', ARGV[6])
redis.call('HSET', s, 'done', whole(before + ARGV[5]), 'tries', 0)
renew(id, tonumber(ARGV[3]))
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
from, to = list()
redis.call('HINCRBY', base, 'tickets', 0 - in_parts('SREM', s .. ':t', from, to))
from, to = list()
give_back(in_parts('SREM', s .. ':t', from, to))
if handled + failed > 0 then
  -- For the rate: how many were finished before the first save of each of the last twelve seconds.
  local total = redis.call('HINCRBY', base, 'finished', handled + failed)
  local slot = 'at:' .. clock[1] % 12
  if string.sub(job(slot) or '', 1, #clock[1]) ~= clock[1] then
    redis.call('HSET', base, slot, whole(now) .. ' ' .. whole(total - handled - failed))
  end
end
local most = tonumber(ARGV[9])
if handled > 0 then
  redis.call('HSET', base, 'row', 0)
elseif failed > 0 and redis.call('HINCRBY', base, 'row', failed) >= most and most > 0 and job('state') == 'running' then
  set_state('failed', job('row') .. ' messages in a row failed; remove the cause, then resume the job and retry its quarantine')
end
if added and job('state') == 'running' then
  local there = redis.call('HLEN', quarantine)
  if there >= tonumber(job('most_quarantined')) then
    set_state('paused', there .. ' messages are in the quarantine, as many as the job may keep; export or retry them, ' ..
      'then resume it')
  end
end
return { 'ok', job('state'), pause_left() }
