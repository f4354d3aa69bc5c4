-- Buckets (gcra, token and leaking): gives back a cost that was taken and not used, or charges one without asking.
-- algorithm_refund of src/core/gcra.c, with the cost or with its negative, in microseconds.
--
-- KEYS   one per rule, all in one slot
-- ARGV   four per rule: limit, amount_us, amount_excess, 'give' or 'charge', where
--            cost * T = amount_us - amount_excess / limit     0 <= amount_excess < limit
-- reply  {1, now_us, then us and excess of each rule}, all but the first as text: the record of gcra.lua
-- state  that of gcra.lua. A bucket that owes nothing any more is deleted and is 0, 0; a charge creates a key that is not
--        there. An arrival time ends at 2^53 - 1 us (the year 2255), whatever is charged.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: what is written depends on the clock, so effects are replicated
end
local LAST_US = 2 ^ 53 - 1

local start = now()
local reply, after = {1, string.format('%.0f', start)}, {}
for i = 1, #KEYS do
  local limit, amount_us, amount_excess, sign = tonumber(ARGV[4 * i - 3]), unpack(ARGV, 4 * i - 2, 4 * i)
  local us, excess = start, 0
  local state = redis.call('GET', KEYS[i])
  if state then
    local state_us, state_excess = string.match(state, '^(%d+):(%d+)$')
    if not state_us then
      return redis.error_reply('BADSTATE ' .. KEYS[i] .. ' holds no state of a bucket')
    end
    state_us, state_excess = tonumber(state_us), tonumber(state_excess)
    if state_us > start then
      us, excess = state_us, state_excess < limit and state_excess or 0
    end
  end
  if sign == 'charge' then
    us, excess = us + amount_us, excess + amount_excess
    if excess >= limit then
      us, excess = us - 1, excess - limit
    end
  elseif sign == 'give' then
    us, excess = us - amount_us, excess - amount_excess
    if excess < 0 then
      us, excess = us + 1, excess + limit
    end
  else
    return redis.error_reply("ERR settle takes 'give' or 'charge', not '" .. tostring(sign) .. "'")
  end
  if us > LAST_US then
    us, excess = LAST_US, 0
  end
  after[2 * i - 1], after[2 * i] = us, excess
end

for i = 1, #KEYS do
  local us, excess = '0', '0'
  if after[2 * i - 1] > start then
    us, excess = string.format('%.0f', after[2 * i - 1]), string.format('%.0f', after[2 * i])
    local ttl_ms = math.ceil((after[2 * i - 1] - start) / 1000) + 1
    redis.call('SET', KEYS[i], us .. ':' .. excess, 'PX', string.format('%.0f', ttl_ms))
  else
    redis.call('DEL', KEYS[i])
  end
  reply[2 * i + 1], reply[2 * i + 2] = us, excess
end
return reply
