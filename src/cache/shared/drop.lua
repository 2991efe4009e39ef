-- Drops what is kept under one key of the cache, and the leases under it: who fetches keeps nothing here.
--
-- KEYS: the answers, the leases. Answers how many of the two there were.
return redis.call('DEL', KEYS[1], KEYS[2])
