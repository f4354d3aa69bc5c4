-- Fixed windows, aligned to the epoch: asks every rule of a quota, and takes the cost from all of them or from none.
-- The arithmetic of src/core/fixed_window.c in microseconds.
--
-- KEYS   one per rule, all in one slot
-- ARGV   three numbers per rule: limit, period_us, cost. A cost of 0 is a peek: it is admitted and writes nothing.
-- reply  {1 admitted or 0 denied, now_us, then end_us and count of each rule after the decision}, all but the first as text
-- state  'end_us:count': the end of the counted window, and what was admitted in it. A key that is not there is 0, 0.
--        A window that has ended is reported as it is.
--
-- Instants are below 2^52 us (until the year 2112), periods and counts far below: all sums are exact in a double.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: what is written depends on the clock, so effects are replicated
end
local call, format, match = redis.call, string.format, string.match
-- '%d' takes 0.2 us less than '%.0f', and writes the same where a C long has 64 bits.
local whole = format('%d', 2 ^ 53) == '9007199254740992' and '%d' or '%.0f'

local start = now()
local reply, after = {1, format(whole, start)}, {}
for i = 1, #KEYS do
  local limit, period, cost = unpack(ARGV, 3 * i - 2, 3 * i)
  local ends, count = '0', '0'
  local state = call('GET', KEYS[i])
  if state then
    ends, count = match(state, '^(%d+):(%d+)$')
    if not ends then
      return redis.error_reply('BADSTATE ' .. KEYS[i] .. ' holds no state of a fixed window')
    end
  end
  reply[2 * i + 1], reply[2 * i + 2] = ends, count
  cost = tonumber(cost)
  if cost > 0 then
    ends, count = tonumber(ends), tonumber(count)
    if start >= ends or start < ends - period then
      ends, count = start - start % period + period, 0
    end
    if cost > limit - count then
      reply[1] = 0
    end
    after[2 * i - 1], after[2 * i] = ends, count + cost
  end
end

if reply[1] == 1 then
  for i = 1, #KEYS do
    if after[2 * i - 1] then -- not a peek
      local ends, count = format(whole, after[2 * i - 1]), format(whole, after[2 * i])
      local ttl_ms = math.ceil((after[2 * i - 1] - start) / 1000) + 1
      call('SET', KEYS[i], ends .. ':' .. count, 'PX', format(whole, ttl_ms))
      reply[2 * i + 1], reply[2 * i + 2] = ends, count
    end
  end
end
return reply
