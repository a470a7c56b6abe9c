-- KEYS: entry, letter, retry, failures, order. Returns the type of what is there.
return redis.call('TYPE', KEYS[5])['ok']
