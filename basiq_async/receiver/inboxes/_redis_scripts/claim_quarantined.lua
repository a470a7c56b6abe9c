-- ARGV: as those of claim. Returns the same.
if redis.call('EXISTS', letter) == 0 then
  return {'done', '', 0}
end
return claim_letter(retry, ARGV[1], ARGV[2], ARGV[3])
