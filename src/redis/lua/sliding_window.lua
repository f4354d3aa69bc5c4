-- Sliding windows: asks every rule of a quota, and takes the cost from all of them or from none. Two aligned windows are
-- counted, the earlier one weighted by the share of it that a window ending now still covers.
-- The arithmetic of src/core/sliding_window.c in microseconds.
--
-- KEYS   one per rule, all in one slot
-- ARGV   three numbers per rule: limit, period_us, cost. A cost of 0 is a peek: it is admitted and writes nothing.
-- reply  {1 admitted or 0 denied, now_us, then end_us, previous and current of each rule after the decision},
--        all but the first as text
-- state  'end_us:previous:current': the end of the window AFTER the counted one, when nothing of the state is left; what
--        was admitted in the window before the counted one; and in it. A key that is not there is 0, 0, 0.
--        A state of an earlier window is reported as it is.
--
-- Instants are below 2^52 us (until the year 2112): all sums are exact in a double. Products may not be: see at_least.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: what is written depends on the clock, so effects are replicated
end
local call, format, match, floor = redis.call, string.format, string.match, math.floor
-- '%d' takes 0.2 us less than '%.0f', and writes the same where a C long has 64 bits.
local whole = format('%d', 2 ^ 53) == '9007199254740992' and '%d' or '%.0f'

-- Whether a * b >= c * d, for whole numbers below 2^52, c at least 0, b and d at least 1; exact. Where a product is too large
-- for a double, a / c is held against d / b as continued fractions: whole part by whole part, with what is left turned over.
local function at_least(a, b, c, d)
  local left, right = a * b, c * d
  if c == 0 or (left < 2 ^ 53 and right < 2 ^ 53) then
    return left >= right
  end
  while true do
    local left_part, right_part = floor(a / c), floor(d / b)
    if left_part ~= right_part then
      return left_part > right_part
    end
    a, d = a % c, d % b
    if a == 0 or d == 0 then
      return d == 0
    end
    a, b, c, d = b, a, d, c
  end
end

local start = now()
local reply, after = {1, format(whole, start)}, {}
for i = 1, #KEYS do
  local limit, period, cost = unpack(ARGV, 3 * i - 2, 3 * i)
  local ends, previous, current = '0', '0', '0'
  local state = call('GET', KEYS[i])
  if state then
    ends, previous, current = match(state, '^(%d+):(%d+):(%d+)$')
    if not ends then
      return redis.error_reply('BADSTATE ' .. KEYS[i] .. ' holds no state of a sliding window')
    end
  end
  reply[3 * i], reply[3 * i + 1], reply[3 * i + 2] = ends, previous, current
  period, cost = tonumber(period), tonumber(cost)
  if cost > 0 then
    ends, previous, current = tonumber(ends), tonumber(previous), tonumber(current)
    local window_end = ends - period
    if start >= window_end and start < ends then
      window_end, previous, current = ends, current, 0
    elseif start >= window_end or start < window_end - period then
      window_end, previous, current = start - start % period + period, 0, 0
    end
    if not at_least(limit - current - cost, period, previous, window_end - start) then
      reply[1] = 0
    end
    after[3 * i - 2], after[3 * i - 1], after[3 * i] = window_end + period, previous, current + cost
  end
end

if reply[1] == 1 then
  for i = 1, #KEYS do
    if after[3 * i - 2] then -- not a peek
      local ends = format(whole, after[3 * i - 2])
      local previous, current = format(whole, after[3 * i - 1]), format(whole, after[3 * i])
      local ttl_ms = math.ceil((after[3 * i - 2] - start) / 1000) + 1
      call('SET', KEYS[i], ends .. ':' .. previous .. ':' .. current, 'PX', format(whole, ttl_ms))
      reply[3 * i], reply[3 * i + 1], reply[3 * i + 2] = ends, previous, current
    end
  end
end
return reply
