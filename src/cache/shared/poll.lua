-- Reads the log of purges on.
--
-- KEYS: the log.
-- ARGV: the last one that was read, or '-'; how many are read at once.
-- Answers the number of the last one there is, the time (seconds, microseconds), and those that were not read, with the one that
-- was.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], '*', 'b', '', 'soft', '')
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
return {last, redis.call('TIME'), redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])}
