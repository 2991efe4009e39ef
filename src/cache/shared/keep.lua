-- Keeps what was fetched under a lease, and gives the lease back.
--
-- KEYS: the answers under one key of the cache, the leases under it.
-- ARGV: the field of the lease and its token; the request fields that the answer depends on, by ','; the field it is in; it; for
-- how many milliseconds.
-- Answers 1; or 0 where the lease is gone: what was fetched was purged meanwhile, or another has fetched it since.
local holder = string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%S+) ')
if holder ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'vary') ~= ARGV[3] or redis.call('HLEN', KEYS[1]) >= 64 then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], 'vary', ARGV[3], ARGV[4], ARGV[5])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[6]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
return 1
