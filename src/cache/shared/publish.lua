-- Writes purges into the log that all gateways read.
--
-- KEYS: the log.
-- ARGV: how many it may hold; then for each purge its kind ('k', 'p', 't'), what it means, and since when that is stale
-- (milliseconds since 1970), or nothing where it is gone. Answers their numbers.
--
-- A log that is full begins anew with the number of its last purge: who has not read that far takes all for purged.
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
  redis.call('XADD', KEYS[1], '*', 'b', last, 'soft', '')
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], '*', 'b', '', 'soft', '')
end
local numbers = {}
for i = 2, #ARGV, 3 do
  numbers[#numbers + 1] = redis.call('XADD', KEYS[1], '*', ARGV[i], ARGV[i + 1], 'soft', ARGV[i + 2])
end
return numbers
