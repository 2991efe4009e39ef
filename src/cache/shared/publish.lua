-- Writes purges into the logs that all gateways read.
--
-- KEYS: the log; that of single keys.
-- ARGV: how many the first may hold; how many the second keeps; then for each purge its kind ('k', 'h', 'p', 't', or 'b' for a log that
-- begins anew), what it means, and since when that is stale (milliseconds since 1970), or nothing where it is gone. Answers their
-- numbers.
--
-- A log that is full begins anew with the number of its last purge: who has not read that far takes all for purged. That of single
-- keys forgets the oldest: who does not find there what it has read last takes all for purged.
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
  redis.call('XADD', KEYS[1], '*', 'b', 'last ' .. last, 'soft', '')
end
local numbers = {}
for i = 3, #ARGV, 3 do
  local kind, what, soft = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if kind == 'h' or (kind == 'k' and soft == '') then
    numbers[#numbers + 1] = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', kind, what, 'soft', '')
  else
    numbers[#numbers + 1] = redis.call('XADD', KEYS[1], '*', kind, what, 'soft', soft)
  end
end
return numbers
