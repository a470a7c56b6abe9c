-- KEYS: as of the prelude. Returns the time by the server's clock, in ms.
return now()
