-- The token buckets of one request, all or none: bucket.rs explains the arithmetic, which is the same here.
--
-- KEYS: a bucket each.
-- ARGV, for each bucket: tokens, micros, burst, cost, and 1 where it must agree, 0 where it is only watched.
-- Answers, for each bucket: microseconds to wait (0: the tokens are there), whole tokens left, microseconds until it is full.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local buckets, agreed = {}, true
for i, key in ipairs(KEYS) do
  local at = (i - 1) * 5
  local tokens, micros = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local size, price = ARGV[at + 3] * micros, ARGV[at + 4] * micros
  local missing = 0
  local full_at, ticks = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  if full_at and tonumber(full_at) >= now then
    missing = math.min((full_at - now) * tokens + ticks, size)
  end
  local lacking = math.max(missing + price - size, 0)
  if lacking > 0 and ARGV[at + 5] == '1' then
    agreed = false
  end
  buckets[i] = {key, tokens, micros, size, price, missing, lacking}
end
local answer = {}
for _, bucket in ipairs(buckets) do
  local key, tokens, micros, size, price, missing, lacking = unpack(bucket)
  if agreed and lacking == 0 then
    missing = math.max(missing + price, 0)
    local ticks = missing % tokens
    local ahead = (missing - ticks) / tokens
    if missing > 0 then
      redis.call('SET', key, string.format('%.0f %.0f', now + ahead, ticks), 'PX', math.ceil((ahead + 1) / 1000))
    else
      redis.call('DEL', key)
    end
  end
  answer[#answer + 1] = math.ceil(lacking / tokens)
  answer[#answer + 1] = math.floor((size - missing) / micros)
  answer[#answer + 1] = math.ceil(missing / tokens)
end
return answer
