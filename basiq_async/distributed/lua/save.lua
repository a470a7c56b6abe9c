#!lua flags=allow-oom
-- Invariant: only the owner records finished messages, together with their dead letters, all or nothing. A repeated save
-- counts once. ARGV: segment, token, lease, number of ids recorded before (-1 to replace them), most failures in a row (0
-- for no limit), then lists, each after its length: counts (name, value); ids, as one text; dead letters (id, text); ids
-- of revived dead letters.
local id, token, lease, before, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if not owns(id, token) then
  return { 'lost' }
end
local s = segment_key(id)
local done = s .. ':d'
if before < 0 then
  before = 0
  redis.call('DEL', done)
  redis.call('HDEL', s, 'done')
elseif tonumber(redis.call('HGET', s, 'done') or 0) ~= before then
  return { 'resend' } -- the server lost earlier saves, or has this one already
end
local at = 6
local function list()
  local from, length = at + 1, tonumber(ARGV[at])
  at = from + length
  return from, at - 1
end
local handled, failed = tonumber(redis.call('HGET', s, 'o:handled') or 0), tonumber(redis.call('HGET', s, 'o:failed') or 0)
local from, to = list()
if to > from then
  in_parts('HSET', s, from, to)
end
local ids = tonumber(ARGV[at])
if ids > 0 then
  redis.call('RPUSH', done, ARGV[at + 1])
  redis.call('HSET', s, 'done', before + ids, 'tries', 0)
end
at = at + 2
from, to = list()
for i = from, to, 2 do
  if redis.call('HEXISTS', dead_letters, ARGV[i]) == 0 then
    redis.call('ZADD', numbers, redis.call('HINCRBY', base, 'dead_letters', 1), ARGV[i])
  end
  redis.call('HSET', dead_letters, ARGV[i], ARGV[i + 1])
end
local added = to >= from
from, to = list()
if to >= from then
  in_parts('HDEL', dead_letters, from, to)
  in_parts('ZREM', numbers, from, to)
end
renew(id, lease)
local more_handled = tonumber(redis.call('HGET', s, 'o:handled') or 0) - handled
local more = tonumber(redis.call('HGET', s, 'o:failed') or 0) - failed
if more_handled + more > 0 then
  -- For the rate: how many were finished before the first save of each of the last twelve seconds.
  local total = redis.call('HINCRBY', base, 'finished', more_handled + more)
  local slot = 'at:' .. clock[1] % 12
  if string.sub(job(slot) or '', 1, #clock[1]) ~= clock[1] then
    redis.call('HSET', base, slot, whole(now) .. ' ' .. whole(total - more_handled - more))
  end
end
if more_handled > 0 then
  redis.call('HSET', base, 'row', 0)
elseif more > 0 and redis.call('HINCRBY', base, 'row', more) >= most and most > 0 and job('state') == 'running' then
  fail(job('row') .. ' messages in a row failed; remove the cause, then resume the job and retry the dead letters')
end
if added and job('state') == 'running' then
  local there = redis.call('HLEN', dead_letters)
  if there >= tonumber(job('most_dead')) then
    set_state('paused', there .. ' dead letters, as many as the job may keep; export or retry them, then resume it')
  end
end
return { 'ok', job('state'), pause_left() }
