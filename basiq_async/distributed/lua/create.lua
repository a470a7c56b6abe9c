-- Keeps true: a key is one job for ever; the job and the first segment of each of its lists appear together.
-- ARGV: selection, number of chains, then field and value pairs.
local selection, chains = ARGV[1], tonumber(ARGV[2])
local known = job('selection')
if known then
  if known ~= selection then
    return { 'other', known }
  end
  for i = 3, #ARGV, 2 do
    if ARGV[i] == 'rate' or ARGV[i] == 'total' or ARGV[i] == 'most_dead' then
      redis.call('HSET', base, ARGV[i], ARGV[i + 1])
    end
  end
  return { 'known', job('state') }
end
for i = 3, #ARGV, 2 do
  redis.call('HSET', base, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', base, 'selection', selection, 'state', 'running', 'chains_left', chains, 'began', whole(now))
local made = { 'created', 'running' }
for chain = 0, chains - 1 do
  made[#made + 1] = add_segment(whole(chain), 0, '', 0, now + tonumber(job('lease')))
end
return made
