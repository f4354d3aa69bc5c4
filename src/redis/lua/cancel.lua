-- Buckets: undoes a decision of gcra.lua that nobody wants any more, as far as that leaves the state as if it had never been.
--
-- KEYS   one per rule, all in one slot
-- ARGV   seven numbers per rule: limit, cost_us, cost_excess, span_us, span_excess, as gcra.lua has them, then us and excess:
--        the rule's state after the decision. Numbers may begin with zeros.
-- reply  {2 it was the last, 1 taken off, 3 its slot is for somebody else now, 0 nothing}
-- state  that of gcra.lua; KEYS[1]:slots, a sorted set of slots that were reserved and are free again: score the slot's instant,
--        member the costs, '|', and the states that go with it; KEYS[i]:undone, a sorted set of what was taken off: score and
--        member the state and how much
--
-- Taking a cost off the arrival time is right where it is the last decision's. Where others came after, it is right as long as each
-- of them found the bucket busy without that cost too: else it began at its own instant, and would have had nothing off. Arrival
-- times only grow, so they did if that of before the decision, less what was taken off of earlier ones, is not past yet, and if
-- nobody waits: who has reserved spends later than he asked. Where somebody waits, a slot that is still to come goes to who asks next for
-- the same and would have to wait: then the same costs are spent at the same instants. What none of this covers is lost; it is
-- one call that could have been, and never one too many.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: what is written depends on the clock, so effects are replicated
end
local call, format, match = redis.call, string.format, string.match
local function text(number)
  return format('%.0f', number)
end

local UNDONE_MAX = 256 -- more than that is not kept, and nothing is taken off but the last

local start = now()
local slots, slot, last, busy, costs, words, rules = KEYS[1] .. ':slots', start, true, true, {}, {}, {}

-- How much was taken off of decisions before the one that left this state; nil: too much to tell.
local function undone_before(key, us)
  local sum, members = 0, call('ZRANGEBYSCORE', key .. ':undone', '-inf', '(' .. text(us), 'LIMIT', 0, UNDONE_MAX)
  for _, member in ipairs(members) do
    sum = sum + match(member, ':(%d+)$')
  end
  return #members < UNDONE_MAX and sum or nil
end

for i = 1, #KEYS do
  local r = {}
  local limit, cost_us, cost_excess, span_us, span_excess, us, excess = unpack(ARGV, 7 * i - 6, 7 * i)
  r.limit, r.cost_us, r.cost_excess = tonumber(limit), tonumber(cost_us), tonumber(cost_excess)
  span_us, span_excess, us, excess = tonumber(span_us), tonumber(span_excess), tonumber(us), tonumber(excess)
  costs[i] = text(r.limit) .. ',' .. text(r.cost_us) .. ',' .. text(r.cost_excess)
  words[i], r.own_us = text(us) .. ':' .. text(excess), us
  slot = math.max(slot, us - span_us + (span_excess > excess and 1 or 0))
  local state = call('GET', KEYS[i])
  if state then
    r.us, r.excess = match(state, '^(%d+):(%d+)$')
    if not r.us then
      return redis.error_reply('BADSTATE ' .. KEYS[i] .. ' holds no state of a bucket')
    end
    r.us, r.excess = tonumber(r.us), tonumber(r.excess)
  end
  last = last and state == words[i]
  local undone = undone_before(KEYS[i], us)
  -- a microsecond less, so that no excess has to be looked at
  busy = busy and r.us and undone and us - r.cost_us - undone > start and r.us - span_us < start
  rules[i] = r
end

local function take_off(r, cost_us, cost_excess)
  r.us, r.excess = r.us - cost_us, r.excess - cost_excess
  if r.excess < 0 then
    r.us, r.excess = r.us + 1, r.excess + r.limit
  end
end

if last or busy then
  for i = 1, #KEYS do
    local r = rules[i]
    if not last then
      local undone, ttl_ms = KEYS[i] .. ':undone', math.ceil((r.us - start) / 1000) + 1
      call('ZADD', undone, text(r.own_us), words[i] .. ':' .. text(r.cost_us))
      call('PEXPIRE', undone, text(math.max(ttl_ms, call('PTTL', undone))))
    end
    take_off(r, r.cost_us, r.cost_excess)
  end
  -- Slots that were left and are at the end now come off too.
  local furthest = last and call('ZREVRANGE', slots, 0, 0)[1]
  while furthest do
    local states = {}
    for i = 1, #KEYS do
      states[i] = text(rules[i].us) .. ':' .. text(rules[i].excess)
    end
    local theirs, left = match(furthest, '^(.*)|(.*)$')
    if left ~= table.concat(states, ';') then
      break
    end
    local i = 0
    for cost_us, cost_excess in string.gmatch(theirs, ',(%d+),(%d+)') do
      i = i + 1
      take_off(rules[i], tonumber(cost_us), tonumber(cost_excess))
    end
    call('ZREM', slots, furthest)
    furthest = call('ZREVRANGE', slots, 0, 0)[1]
  end
  for i = 1, #KEYS do
    local r = rules[i]
    if r.us > start then
      call('SET', KEYS[i], text(r.us) .. ':' .. text(r.excess), 'PX', text(math.ceil((r.us - start) / 1000) + 1))
    else
      call('DEL', KEYS[i])
    end
  end
  return {last and 2 or 1}
end
if slot > start then
  call('ZADD', slots, text(slot), table.concat(costs, ';') .. '|' .. table.concat(words, ';'))
  local furthest = call('ZREVRANGE', slots, 0, 0, 'WITHSCORES')[2]
  call('PEXPIRE', slots, text(math.ceil((tonumber(furthest) - start) / 1000) + 1))
  return {3}
end
return {0}
