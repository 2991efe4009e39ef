-- Looks for the answer to a request; where there is none, says who is to fetch it.
--
-- KEYS: the answers under one key of the cache, the leases under it.
-- ARGV: the request fields that answers are known to depend on, by ','; the field of the hash that the answer is in; the version
-- that is there already, or nothing; a token that is this request's alone, or nothing where it does not fetch for others; for how
-- many milliseconds others wait for it.
-- Answers 'vary' and the fields, where those that are known are not right; 'answer', it, and nothing else; 'lease': the request is
-- to fetch it; 'wait': another is; 'pass': what is fetched is not to be kept; 'nothing'.
local vary = redis.call('HGET', KEYS[1], 'vary')
if vary and vary ~= ARGV[1] then
  return {'vary', vary}
end
if vary then
  local answer = redis.call('HGET', KEYS[1], ARGV[2])
  if answer and #answer > 16 and string.sub(answer, 1, 16) > ARGV[3] then
    return {'answer', answer}
  end
  -- It is there, but too large: each gateway has its own.
  if answer and #answer == 16 then
    return {'nothing'}
  end
end
if ARGV[4] == '' then
  return {'nothing'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder, till = string.match(redis.call('HGET', KEYS[2], ARGV[2]) or '', '^(%S+) (%d+)$')
if holder and tonumber(till) > now then
  -- Asked before, and the answer was lost.
  if holder == ARGV[4] then
    return {'lease'}
  end
  -- What was fetched of late was no answer for others, but may be one soon: each fetches for itself.
  if holder == 'alone' then
    return {'nothing'}
  end
  return {holder == 'pass' and 'pass' or 'wait'}
end
-- Fields of a request may name as many variants as a client likes.
if redis.call('HLEN', KEYS[2]) >= 256 then
  redis.call('DEL', KEYS[2])
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4] .. ' ' .. string.format('%.0f', now + ARGV[5]))
-- A fetch may take longer than others wait for it.
redis.call('PEXPIRE', KEYS[2], math.max(600000, ARGV[5]))
return {'lease'}
