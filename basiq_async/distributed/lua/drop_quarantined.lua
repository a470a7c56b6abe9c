#!lua flags=allow-oom
-- Invariant: an entry of the quarantine and its number are removed together. ARGV: ids. Returns the number removed.
in_parts('ZREM', numbers, 1, #ARGV)
return in_parts('HDEL', quarantine, 1, #ARGV)
