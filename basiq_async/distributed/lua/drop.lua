#!lua flags=allow-oom
-- Keeps true: a letter and its number go together. ARGV: ids. Returns how many there were.
redis.call('ZREM', numbers, unpack(ARGV))
return redis.call('HDEL', letters, unpack(ARGV))
