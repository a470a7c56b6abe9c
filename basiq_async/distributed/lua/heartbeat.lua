#!lua flags=allow-oom
-- Invariant: a lease is prolonged only for its owner. The worker is recorded as alive.
-- ARGV: worker, lease, then segment and token pairs.
local lease = tonumber(ARGV[2])
local lost = {}
for i = 3, #ARGV, 2 do
  if owns(ARGV[i], ARGV[i + 1]) then
    renew(ARGV[i], lease)
  else
    lost[#lost + 1] = ARGV[i]
  end
end
if not job('state') or is_another() then
  return { 'gone', '', 0, lost }
end
record_worker(ARGV[1])
return { job('state'), job('rate') or '', pause_left(), lost }
