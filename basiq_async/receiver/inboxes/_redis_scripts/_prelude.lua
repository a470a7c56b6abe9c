-- Begins each script about keys. KEYS: the quarantine's order, the inbox's own facts, then for each key its entry, delivery,
-- retry and failures.
-- The entry is 'done' or 'held:TOKEN'. What is in the quarantine has a delivery and no entry; retry is who has claimed it:
-- 'END:TOKEN', with the end of the lease in ms. It is kept for longer, so that a late worker can end its claim.
-- A place is a time of 17 digits and the key.
local order, meta = KEYS[1], KEYS[2]
local entry, delivery, retry, failures = KEYS[3], KEYS[4], KEYS[5], KEYS[6]

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Returns the holder of a delivery, and what remains of its lease in ms.
local function holder_of(retry)
  local ends, holder = string.match(redis.call('GET', retry) or '', '^(%d+):(.*)$')
  return holder, ends and tonumber(ends) - now() or 0
end

local function is_acknowledged(delivery)
  return redis.call('HGET', delivery, 'acknowledged') ~= '0'
end

-- Takes a delivery out of the quarantine.
local function take_out(delivery)
  redis.call('ZREM', order, redis.call('HGET', delivery, 'place') or '')
  redis.call('DEL', delivery)
end

local function claim_delivery(retry, token, lease, kept)
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

-- Notes the time of the newest record.
local function note_record()
  redis.call('HSET', meta, 'newest', string.format('%.0f', now()))
end

-- Records a key as handled, for some ms, and until when entries were kept for so long.
local function record(entry, ms)
  set(entry, 'done', ms)
  note_record()
  local kept, time = 'kept:' .. ms, now()
  if ms ~= '0' and tonumber(redis.call('HGET', meta, kept) or '0') < time then
    redis.call('HSET', meta, kept, string.format('%.0f', time + 60000))
  end
end

