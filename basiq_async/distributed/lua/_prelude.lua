-- Shared by all scripts: names of keys, the server's time, and the fence. KEYS[1] is the job's own key.
local base = KEYS[1]
local due, letters, numbers, workers = base .. ':due', base .. ':dead', base .. ':dead:n', base .. ':workers'
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

local function add_segment(chain, index, cursor, position, at)
  local id = chain .. '.' .. index
  redis.call('HSET', segment_key(id), 'cursor', cursor, 'position', whole(position), 'tries', 0)
  redis.call('ZADD', due, whole(at), id)
  return id
end

local function hold_left()
  return math.max(0, tonumber(job('hold') or 0) - now)
end

local function fail(reason)
  redis.call('HSET', base, 'state', 'failed', 'reason', reason, 'ended', whole(now))
end
