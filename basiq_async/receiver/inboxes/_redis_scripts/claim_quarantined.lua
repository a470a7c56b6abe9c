-- ARGV: as those of claim. Returns the same.
if redis.call('EXISTS', delivery) == 0 then
  return {'done', '', 0}
end
return claim_delivery(retry, ARGV[1], ARGV[2], ARGV[3], ARGV[4])
