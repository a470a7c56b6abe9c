-- Begins each script about keys. KEYS: the quarantine's order, the inbox's own facts, then for each key its entry, delivery,
-- retry and attempts.
-- The entry is 'done' or 'held:TOKEN'. What is in the quarantine has a delivery and no entry; retry is who has claimed it:
-- 'END:TOKEN', with the end of the lease in ms. It is kept for longer, so that a late worker can end its claim.
-- The attempts are the number of failures, the tokens of attempts without an end, each between two line ends, and the token
-- of the attempt that has not ended.
-- A place is a time of 17 digits and the key.
local order, meta = KEYS[1], KEYS[2]
local entry, delivery, retry, attempts = KEYS[3], KEYS[4], KEYS[5], KEYS[6]

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

-- Keeps the attempts for some ms; where entries are kept for ever, for 30 days.
local function keep(attempts, ms)
  redis.call('PEXPIRE', attempts, ms == '0' and 2592000000 or ms)
end

-- Begins an attempt. Returns how many before it had no end, three at the most.
local function begin(attempts, token, ms)
  local before, unended = redis.call('HGET', attempts, 'token'), redis.call('HGET', attempts, 'unended') or ''
  local _, count = string.gsub(unended, '\n', '')
  if before and before ~= token and count < 6 then
    redis.call('HSET', attempts, 'unended', unended .. '\n' .. before .. '\n')
    count = count + 2
  end
  redis.call('HSET', attempts, 'token', token)
  keep(attempts, ms)
  return count / 2
end

-- Ends the attempt of a token, also if another one has begun since.
local function finish(attempts, token)
  local unended = redis.call('HGET', attempts, 'unended') or ''
  local first, last = string.find(unended, '\n' .. token .. '\n', 1, true)
  while first do
    unended = string.sub(unended, 1, first - 1) .. string.sub(unended, last + 1)
    redis.call('HSET', attempts, 'unended', unended)
    first, last = string.find(unended, '\n' .. token .. '\n', 1, true)
  end
  if redis.call('HGET', attempts, 'token') == token then
    redis.call('HDEL', attempts, 'token')
  end
end

local function claim_delivery(retry, token, lease, kept, ms)
  local holder, remaining = holder_of(retry)
  if holder and holder ~= token and remaining > 0 then
    return {'busy', holder, remaining}
  end
  redis.call('SET', retry, string.format('%.0f:', now() + lease) .. token, 'PX', lease + kept)
  return {'claimed', '', 0, begin(attempts, token, ms)}
end

-- Sets a value for some ms; 0 is for ever.
local function set(key, value, ms)
  if ms == '0' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'PX', ms)
  end
end

-- Notes when the inbox last recorded something.
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
    local facts = redis.call('HGETALL', meta) -- what was kept for another time matters until all of it is gone
    for number = 1, #facts, 2 do
      if string.sub(facts[number], 1, 5) == 'kept:' and tonumber(facts[number + 1]) < time - tonumber(ms) then
        redis.call('HDEL', meta, facts[number])
      end
    end
  end
end

