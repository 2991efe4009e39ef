-- Reads the logs of purges on.
--
-- KEYS: the log; that of single keys.
-- ARGV: the last of the first that was read, or '-'; the same of the second, or nothing where only its last is of interest; how
-- many of each are read at once; when the first was last read to its end by who asks (milliseconds since 1970), if it was.
-- Answers the time (seconds, microseconds); the number of the last of the first, and those from the one that was read on; the same of the
-- second, and how many that has.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XADD', KEYS[1], '*', 'b', 'since ' .. ARGV[4], 'soft', '')
end
local function last(key)
  local line = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  return line and line[1] or '0-0'
end
local keys = {}
if ARGV[2] ~= '' then
  keys = redis.call('XRANGE', KEYS[2], ARGV[2], '+', 'COUNT', ARGV[3])
end
return {
  redis.call('TIME'),
  last(KEYS[1]),
  redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[3]),
  last(KEYS[2]),
  keys,
  redis.call('XLEN', KEYS[2]),
}
