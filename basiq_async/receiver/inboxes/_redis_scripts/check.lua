-- KEYS: as of the prelude. Returns the types of the quarantine's order and of the inbox's own facts.
return {redis.call('TYPE', order)['ok'], redis.call('TYPE', meta)['ok']}
