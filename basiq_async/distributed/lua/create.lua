-- Invariant: a key belongs to one job until that is forgotten. The job, the first segment of each of its lists, and its
-- entry in the set of active jobs are created together.
-- ARGV: selection, number of lists, then field and value pairs.
local selection, lists = ARGV[1], tonumber(ARGV[2])
local known = job('selection')
if known then
  if known ~= selection then
    return { 'other', known }
  end
  for i = 3, #ARGV, 2 do
    if ARGV[i] == 'id' and ARGV[i + 1] == job('id') then -- a request that was sent again
      local made = redis.call('ZRANGE', due, 0, -1)
      table.insert(made, 1, job('state'))
      return made
    end
  end
  for i = 3, #ARGV, 2 do
    if ARGV[i] == 'rate' or ARGV[i] == 'total' or ARGV[i] == 'most_quarantined' then
      redis.call('HSET', base, ARGV[i], ARGV[i + 1])
    end
  end
  return { job('state') }
end
for i = 3, #ARGV, 2 do
  redis.call('HSET', base, ARGV[i], ARGV[i + 1])
end
redis.call('SADD', jobs, name)
redis.call('HSET', base, 'selection', selection, 'lists_left', lists, 'began', whole(now))
set_state('running', '')
local made = { 'running' }
for list_name = 0, lists - 1 do
  made[#made + 1] = add_segment(whole(list_name), 0, '', now + 1000 * job('lease'))
end
return made
