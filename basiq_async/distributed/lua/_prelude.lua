-- Shared by all scripts: the names of keys, the server's time, and the check of the owner. KEYS: the job's key, and the
-- sets of all jobs and of active jobs. The first two arguments are the job's key and its id; an empty id stands
-- for any job of that key. A script's own arguments follow them.
local base, jobs, active = KEYS[1], KEYS[2], KEYS[3]
local name, meant = table.remove(ARGV, 1), table.remove(ARGV, 1)
local due, workers = base .. ':due', base .. ':workers'
local quarantine, numbers = base .. ':quarantine', base .. ':quarantine:n'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function whole(value)
  return string.format('%.0f', value)
end

local function job(field)
  return redis.call('HGET', base, field)
end

local function segment_key(id)
  return base .. ':s:' .. id
end

-- Whether the job that the caller means was forgotten, and the key belongs to another job now.
local function is_another()
  return meant ~= '' and job('id') ~= meant
end

-- Set the state. Running and paused jobs are in the set of active jobs, which workers look through.
local function set_state(to, reason)
  redis.call('HSET', base, 'state', to, 'reason', reason)
  if to == 'running' or to == 'paused' then
    redis.call('HDEL', base, 'ended')
    redis.call('SADD', active, name)
  else
    redis.call('HSET', base, 'ended', whole(now))
    redis.call('SREM', active, name)
  end
end

-- Call a command with the arguments from `from` to `to`, in parts, because unpack accepts only some thousands.
local function in_parts(command, key, from, to)
  local count = 0
  for first = from, to, 5000 do
    count = count + redis.call(command, key, unpack(ARGV, first, math.min(first + 4999, to)))
  end
  return count
end

-- Whether the token is the current owner's. Only the owner may write.
local function owns(id, token)
  return redis.call('HGET', segment_key(id), 'owner') == token
end

-- Prolong a lease, and set further fields of the segment in the same call.
local function renew(id, lease, ...)
  local ends = whole(now + lease)
  redis.call('HSET', segment_key(id), 'until', ends, ...)
  redis.call('ZADD', due, ends, id)
end

local function add_segment(list_name, index, cursor, at)
  local id = list_name .. '.' .. index
  redis.call('HSET', segment_key(id), 'cursor', cursor, 'tries', 0)
  redis.call('ZADD', due, whole(at), id)
  redis.call('HDEL', base, 'counting')
  return id
end

local function record_worker(worker)
  redis.call('ZADD', workers, whole(now), worker)
  redis.call('ZREMRANGEBYSCORE', workers, '-inf', whole(now - 60000))
end

local function pause_left()
  return math.max(0, tonumber(job('paused_until') or 0) - now)
end
