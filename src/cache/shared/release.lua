-- Gives a lease back, under which nothing is kept.
--
-- KEYS: the leases under one key of the cache.
-- ARGV: the field of the lease and its token; what those who come are told, 'pass' or 'alone', and for how many milliseconds, or 0.
local holder = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S+) ')
if holder ~= ARGV[2] then
  return 0
end
if ARGV[4] == '0' then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3] .. ' ' .. string.format('%.0f', till))
-- Whoever asks for what is not there leaves nothing for long.
if redis.call('HLEN', KEYS[1]) == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return 1
