-- Begins each script about keys. KEYS: the quarantine's order, the inbox's own facts, the order of what waits, then for
-- each key its entry, letter, retry and failures.
-- The entry is 'done' or 'held:TOKEN'. What is in the quarantine, or waits, has a letter and no entry; retry is who has
-- claimed it: 'END:TOKEN', with the end of the lease in ms. It is kept for longer, so that a late worker can end its
-- claim. What waits is not acknowledged, and its letter has the field 'due', in us. The order of what waits has for each
-- 'd', its webhook, when it is due, the bytes of its text and its place; 's', its webhook and its place; 'a' and its
-- place; and if it never failed, 'f', its webhook and its key. The webhook is JSON, so none begins with another.
-- A place is a time of 17 digits and the key.
local order, meta, backlog = KEYS[1], KEYS[2], KEYS[3]
local entry, letter, retry, failures = KEYS[4], KEYS[5], KEYS[6], KEYS[7]

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns the holder of a letter, and what remains of its lease in ms.
local function holder_of(retry)
  local ends, holder = string.match(redis.call('GET', retry) or '', '^(%d+):(.*)$')
  return holder, ends and tonumber(ends) - now() or 0
end

local function is_acknowledged(letter)
  return redis.call('HGET', letter, 'acknowledged') ~= '0'
end

local function now_in_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Has a delivery wait. attempts is the number of those that failed.
local function begin_wait(letter, webhook, due, place, attempts, text)
  due = string.format('%016.0f%010d', due, #text) .. place
  redis.call('HSET', letter, 'due', due, 'webhook', webhook, 'place', place, 'acknowledged', '0', 'text', text)
  redis.call('ZADD', backlog, 0, 'd' .. webhook .. due, 0, 's' .. webhook .. place, 0, 'a' .. place)
  if attempts == '0' then
    redis.call('ZADD', backlog, 0, 'f' .. webhook .. string.sub(place, 18))
  end
  redis.call('HINCRBY', meta, 'size:' .. webhook, #text)
end

-- Ends a wait, of which due has the time, the bytes and the place: also one whose letter Redis has evicted.
local function end_wait(webhook, due)
  if redis.call('ZREM', backlog, 'd' .. webhook .. due) == 1 then
    local place = string.sub(due, 27)
    redis.call('ZREM', backlog, 's' .. webhook .. place, 'a' .. place, 'f' .. webhook .. string.sub(place, 18))
    redis.call('HINCRBY', meta, 'size:' .. webhook, -string.sub(due, 17, 26))
  end
end

-- Takes a letter out of the quarantine, or ends its wait.
local function take_out(letter)
  local place, due, webhook = unpack(redis.call('HMGET', letter, 'place', 'due', 'webhook'))
  if due then
    end_wait(webhook, due)
  else
    redis.call('ZREM', order, place or '')
  end
  redis.call('DEL', letter)
end

local function claim_letter(retry, token, lease, kept)
  local holder, remaining = holder_of(retry)
  if holder and holder ~= token and remaining > 0 then
    return {'busy', holder, remaining}
  end
  redis.call('SET', retry, string.format('%.0f:', now() + lease) .. token, 'PX', lease + kept)
  return {'claimed', '', 0}
end

-- Sets a value for some ms; 0 is for ever.
local function set(key, value, ms)
  if ms == '0' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'PX', ms)
  end
end

-- Records a key as handled, for some ms, and notes until when entries were kept for so long.
local function record(entry, ms)
  set(entry, 'done', ms)
  local kept, time = 'kept:' .. ms, now()
  if ms ~= '0' and tonumber(redis.call('HGET', meta, kept) or '0') < time then
    redis.call('HSET', meta, kept, string.format('%.0f', time + 60000))
  end
end

