-- KEYS: the notes. ARGV: a name, its new text, and the text that is stored now, or an empty one. Returns whether it was.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[3] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
