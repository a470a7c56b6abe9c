#!lua flags=allow-oom
-- Invariant: a dead letter and its number are removed together. ARGV: ids. Returns the number that was removed.
in_parts('ZREM', numbers, 1, #ARGV)
return in_parts('HDEL', dead_letters, 1, #ARGV)
