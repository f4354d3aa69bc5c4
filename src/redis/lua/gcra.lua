-- gcra, token bucket and leaking bucket: asks every rule of a quota, and takes the cost from all of them or from none.
-- The arithmetic of src/core/gcra.c in microseconds. T = period / limit is the emission interval.
--
-- KEYS   one per rule, all in one slot
-- ARGV   six numbers per rule: limit, cost_us, cost_excess, span_us, span_excess, wait_us, where
--            cost * T  = cost_us - cost_excess / limit     0 <= cost_excess < limit     cost <= burst
--            burst * T = span_us - span_excess / limit     0 <= span_excess < limit
--        wait_us: what is due so soon is admitted too; the caller waits until it is (a reservation). A slot that somebody had
--        reserved for the same and has left (cancel.lua: KEYS[1]:slots) is taken before one at the end.
--        A cost of 0, 0 is a peek: it is admitted and writes nothing.
-- reply  {1 admitted or 0 denied, now_us, then us and excess of each rule after the decision}, all but the first as text
-- state  'us:excess': the theoretical arrival time is us - excess / limit, in microseconds since the epoch. A key that is
--        not there is 0, 0. An excess of limit or more was written by another quota: it is less than a microsecond, and is
--        let go. A state that is older than now is reported as it is.
--
-- Instants (until the year 2112) and spans (142 years) are below 2^52 us: a sum of two is exact in a double.
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
local reply, after, waits = {1, format(whole, start)}, {}, false
for i = 1, #KEYS do
  local limit, cost_us, cost_excess, span_us, span_excess, wait_us = unpack(ARGV, 6 * i - 5, 6 * i)
  local us, excess = '0', '0'
  local state = call('GET', KEYS[i])
  if state then
    us, excess = match(state, '^(%d+):(%d+)$')
    if not us then
      return redis.error_reply('BADSTATE ' .. KEYS[i] .. ' holds no state of a bucket')
    end
  end
  reply[2 * i + 1], reply[2 * i + 2] = us, excess
  if tonumber(cost_us) > 0 then
    limit, us, excess = tonumber(limit), tonumber(us), tonumber(excess)
    if us <= start then
      us, excess = start, 0
    elseif excess >= limit then
      excess = 0
    end
    us, excess = us + cost_us, excess + cost_excess
    if excess >= limit then
      us, excess = us - 1, excess - limit
    end
    local most_us = start + span_us + wait_us
    if us > most_us or (us == most_us and excess < tonumber(span_excess)) then
      reply[1] = 0
    end
    waits = waits or (us > start + span_us and tonumber(wait_us) > 0)
    after[2 * i - 1], after[2 * i] = us, excess
  end
end

if waits then
  local slots, costs = KEYS[1] .. ':slots', {}
  for i = 1, #KEYS do
    costs[i] = ARGV[6 * i - 5] .. ',' .. ARGV[6 * i - 4] .. ',' .. ARGV[6 * i - 3]
  end
  local own = table.concat(costs, ';') .. '|'
  for _, slot in ipairs(call('ZRANGEBYSCORE', slots, start, start + ARGV[6], 'LIMIT', 0, 16)) do
    if string.sub(slot, 1, #own) == own then
      call('ZREM', slots, slot)
      reply, waits = {1, reply[2]}, nil
      for us, excess in string.gmatch(string.sub(slot, #own + 1), '(%d+):(%d+)') do
        reply[#reply + 1], reply[#reply + 2] = us, excess
      end
      break
    end
  end
end

if reply[1] == 1 and waits ~= nil then
  for i = 1, #KEYS do
    if after[2 * i - 1] then -- not a peek
      local us, excess = format(whole, after[2 * i - 1]), format(whole, after[2 * i])
      local ttl_ms = math.ceil((after[2 * i - 1] - start) / 1000) + 1
      call('SET', KEYS[i], us .. ':' .. excess, 'PX', format(whole, ttl_ms))
      reply[2 * i + 1], reply[2 * i + 2] = us, excess
    end
  end
end
return reply
