#!lua flags=allow-oom
-- Keeps true: a dead letter and its number go together. ARGV: ids. Returns how many there were.
in_parts('ZREM', numbers, 1, #ARGV)
return in_parts('HDEL', dead_letters, 1, #ARGV)
