-- Shared by all scripts: names of keys, the server's time, and the fence. KEYS: the job's own key, and the sets of all
-- jobs and of those that may have work left. The first two arguments are the job's key and, where a caller means one
-- job of that key and no later one, its token; a script sees the arguments after them.
local base, jobs, active = KEYS[1], KEYS[2], KEYS[3]
local name, meant = table.remove(ARGV, 1), table.remove(ARGV, 1)
local due, dead_letters, numbers, workers = base .. ':due', base .. ':dead', base .. ':dead:n', base .. ':workers'
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

-- The key was forgotten, and is another job's now.
local function is_another()
  return meant ~= '' and job('token') ~= meant
end

-- A job that may have work left is in the set that workers look through, from the moment that makes it so.
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

-- A call with arguments from `from` to `to`, in parts: unpack accepts some thousands.
local function in_parts(command, key, from, to)
  local count = 0
  for first = from, to, 5000 do
    count = count + redis.call(command, key, unpack(ARGV, first, math.min(first + 4999, to)))
  end
  return count
end

-- Only the current owner may write: a token that was replaced, or rolled back, is refused.
local function owns(id, token)
  return redis.call('HGET', segment_key(id), 'owner') == token
end

local function renew(id, lease)
  local ends = whole(now + lease)
  redis.call('HSET', segment_key(id), 'until', ends)
  redis.call('ZADD', due, ends, id)
end

-- An owner's counts are absolute, and go into the job's once: when it finishes, lets go, or is replaced.
local function fold(id)
  local s = segment_key(id)
  local fields = redis.call('HGETALL', s)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'o:' then
      redis.call('HINCRBY', base, 'n:' .. string.sub(fields[i], 3), fields[i + 1])
      redis.call('HDEL', s, fields[i])
    end
  end
end

local function add_segment(list_name, index, cursor, position, at)
  local id = list_name .. '.' .. index
  redis.call('HSET', segment_key(id), 'cursor', cursor, 'position', whole(position), 'tries', 0)
  redis.call('ZADD', due, whole(at), id)
  return id
end

local function pause_left()
  return math.max(0, tonumber(job('paused_until') or 0) - now)
end

local function fail(reason)
  set_state('failed', reason)
end
