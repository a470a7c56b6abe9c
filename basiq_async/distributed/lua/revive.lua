-- Keeps true: the letters that are there now are tried again, once each. ARGV: nothing.
local state = job('state')
if not state then
  return { 'gone' }
end
local last = redis.call('ZREVRANGE', numbers, 0, 0, 'WITHSCORES')
if #last == 0 then
  return { state, '' }
end
local id = add_segment('d' .. redis.call('HINCRBY', base, 'revivals', 1), 0, '0', 0, now + tonumber(job('lease')))
redis.call('HSET', segment_key(id), 'upto', last[2])
redis.call('HINCRBY', base, 'chains_left', 1)
redis.call('HSET', base, 'row', 0)
if state == 'finished' then
  redis.call('HSET', base, 'state', 'running')
  redis.call('HDEL', base, 'ended')
  state = 'running'
end
return { state, id }
