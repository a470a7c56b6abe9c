-- KEYS: order. Returns the type of what is there.
return redis.call('TYPE', KEYS[1])['ok']
