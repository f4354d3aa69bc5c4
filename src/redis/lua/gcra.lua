-- gcra, token bucket and leaking bucket: asks every rule of a quota and takes the cost from all of them, or from none.
-- The arithmetic of src/core/gcra.c, in microseconds. T = period / limit is the emission interval.
--
-- KEYS   one per rule, all in one slot
-- ARGV   five numbers per rule: limit, cost_us, cost_excess, span_us, span_excess, whole and below 2^52, with
--            cost * T  = cost_us - cost_excess / limit     0 <= cost_excess < limit
--            burst * T = span_us - span_excess / limit     0 <= span_excess < limit     cost <= burst
--        A cost of 0, 0 is a peek: admitted, writes nothing.
-- reply  {1 admitted or 0 denied, now in us, then for each rule: us, excess}: the states after the decision, numbers as text
-- state  'us:excess': the theoretical arrival time is us - excess / limit, in microseconds since the epoch. A key that is not there
--        is 0, 0. An excess of limit or more was written by another quota: it is less than a microsecond, and is let go.
--
-- Instants below 2^52 (the year 2112) and spans below 2^52 us (142 years) add up exactly in a double.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Before 5.0.0's successors made it the default, a script that reads the clock had to ask for its effects to be replicated.
if redis.replicate_commands and not redis.REDIS_VERSION_NUM then redis.replicate_commands() end
local call, format, match = redis.call, string.format, string.match
local start = now()
local reply, after = {1, format('%.0f', start)}, {}

for i = 1, #KEYS do
  local limit, cost_us, cost_excess, span_us, span_excess = unpack(ARGV, 5 * i - 4, 5 * i)
  local state_us, state_excess = '0', '0'
  local state = call('GET', KEYS[i])
  if state then
    state_us, state_excess = match(state, '^(%d+):(%d+)$')
    if not state_us then return redis.error_reply('BADSTATE ' .. KEYS[i] .. ' does not hold a state of gcra') end
  end
  reply[2 * i + 1], reply[2 * i + 2] = state_us, state_excess
  limit = tonumber(limit)
  local us, excess = tonumber(state_us), tonumber(state_excess)
  if us <= start then
    us, excess = start, 0
  elseif excess >= limit then
    excess = 0
  end
  us, excess = us + cost_us, excess + cost_excess
  if excess >= limit then us, excess = us - 1, excess - limit end
  local most_us = start + span_us
  if us > most_us or (us == most_us and excess < tonumber(span_excess)) then reply[1] = 0 end
  after[2 * i - 1], after[2 * i] = us, excess
end
