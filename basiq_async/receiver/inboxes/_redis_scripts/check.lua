-- KEYS: as of the prelude. Returns the types of the quarantine's order, of the inbox's own facts, and of the order of what
-- waits.
return {redis.call('TYPE', order)['ok'], redis.call('TYPE', meta)['ok'], redis.call('TYPE', backlog)['ok']}
