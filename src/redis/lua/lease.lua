-- gcra, token bucket and leaking bucket: takes a block of tokens that its caller spends later, and takes back what was left of the
-- block before. The arithmetic of gcra.lua, in microseconds; ARCHITECTURE.md, "Leases", says why no more than the quota is spent.
--
-- KEYS   two per rule, all in one slot: the state that gcra.lua keeps, and a list of the latest takes
-- ARGV   ahead_us: how long the tokens may be spent; then, of the block before (0, 0: there is none), its number and until when it
--        could be spent; then eight numbers per rule: limit, cost_us, cost_excess, span_us, span_excess as in gcra.lua,
--            left * T = left_us - left_excess / limit     what was not spent of the block before
--            before_us                                    the arrival time before that block, or the instant of its take if later
--        A cost of 0, 0 takes nothing: it is admitted.
-- reply  {1 admitted or 0 denied, now_us, the take's number, then us, excess and before_us of each rule}, all but the first as text
-- list   'state;number:slack;number:slack...': the state as the last take left it, and of the latest takes how far their tokens began
--        behind the instant to which they may be spent. That far the arrival time can be set back by what earlier takes did not
--        spend. '-' for ':' where something has gone back: it does so once, though a request be sent twice. The oldest of too many
--        entries leaves its slack to the next, if that is larger; nothing of that take goes back any more.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: what is written depends on the clock, so effects are replicated
end
local call, format, match, max, min = redis.call, string.format, string.match, math.max, math.min
local whole = format('%d', 2 ^ 53) == '9007199254740992' and '%d' or '%.0f'
local ENTRIES = 16

-- Sets the state back by what was not spent and, when all has been spent ahead of its time, by that time; no further than the
-- later takes allow. Late it is exact only where all takes are on the list. While somebody waits for a reservation: not at all.
local function set_back(r, start, number, till)
  local own
  for i, other in ipairs(r.numbers) do
    own = other == number and r.open[i] and i or own
  end
  local exact, most_us = start <= till or r.last == r.state, start + r.span_us
  local reserved = r.us > most_us or (r.us == most_us and r.excess < r.span_excess)
  if not own or not exact or reserved or r.us <= start then
    return
  end
  local us, excess = r.left_us + max(0, till - max(r.before_us, start)), r.left_excess
  for i = own + 1, #r.numbers do
    if r.slacks[i] < us then
      us, excess = r.slacks[i], 0
    end
  end
  for i = own + 1, #r.numbers do
    r.slacks[i] = r.slacks[i] - us
  end
  if start <= till then -- nothing of that block is spent any more: it holds back what came before it no further than to now
    r.slacks[own] = r.before_us > till and r.slacks[own] + till - start or max(0, r.before_us - 1 - start)
  end
  r.open[own] = false
  r.us, r.excess, r.changed = r.us - us, r.excess - excess, true
  if r.excess < 0 then
    r.us, r.excess = r.us + 1, r.excess + r.limit
  end
end

local function read(i)
  local n = {}
  for j = 1, 8 do
    n[j] = tonumber(ARGV[8 * i - 5 + j])
  end
  local r = {limit = n[1], cost_us = n[2], cost_excess = n[3], span_us = n[4], span_excess = n[5], left_us = n[6],
    left_excess = n[7], before_us = n[8], us = 0, excess = 0, numbers = {}, slacks = {}, open = {}}
  r.state = call('GET', KEYS[2 * i - 1])
  if r.state then
    local us, excess = match(r.state, '^(%d+):(%d+)$')
    if not us then
      return nil
    end
    r.us, r.excess = tonumber(us), tonumber(excess)
    if r.excess >= r.limit then
      r.excess = 0
    end
  end
  local last, takes = match(call('GET', KEYS[2 * i]) or '', '^(%d+:%d+)(;.*)$')
  r.last = last
  for number, mark, slack in string.gmatch(takes or '', ';(%d+)([:-])(%d+)') do
    local at = #r.numbers + 1
    r.numbers[at], r.open[at], r.slacks[at] = tonumber(number), mark == ':', tonumber(slack)
  end
  return r
end

local start = now()
local ahead, number, till = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local rules, admitted, mine = {}, 1, start
for i = 1, #KEYS / 2 do
  local r = read(i)
  if not r then
    return redis.error_reply('BADSTATE ' .. KEYS[2 * i - 1] .. ' holds no state of a bucket')
  end
  rules[i] = r
  if number > 0 then
    set_back(r, start, number, till)
  end
  r.before_us = max(r.us, start)
  if #r.numbers > 0 then
    mine = max(mine, r.numbers[#r.numbers] + 1)
  end
  if r.cost_us > 0 then
    local us, excess = r.us, r.excess
    if us <= start + ahead then
      us, excess, r.slack = start + ahead, 0, 0
    else
      r.slack = us - start - ahead - (excess > 0 and 1 or 0)
    end
    us, excess = us + r.cost_us, excess + r.cost_excess
    if excess >= r.limit then
      us, excess = us - 1, excess - r.limit
    end
    local most_us = start + r.span_us
    if us > most_us or (us == most_us and excess < r.span_excess) then
      admitted = 0
    end
    r.after_us, r.after_excess = us, excess
  end
end

local reply = {admitted, format(whole, start), format(whole, mine)}
for i, r in ipairs(rules) do
  local numbers, slacks, open = r.numbers, r.slacks, r.open
  if admitted == 1 and r.after_us then
    r.us, r.excess, r.changed = r.after_us, r.after_excess, true
    numbers[#numbers + 1], slacks[#slacks + 1], open[#open + 1] = mine, r.slack, true
    if #numbers > ENTRIES then
      slacks[2] = min(slacks[1], slacks[2])
      table.remove(numbers, 1)
      table.remove(slacks, 1)
      table.remove(open, 1)
    end
  end
  if r.changed and r.us <= start then
    call('DEL', KEYS[2 * i - 1], KEYS[2 * i])
    r.us, r.excess = 0, 0
  elseif r.changed then
    local state = format(whole, r.us) .. ':' .. format(whole, r.excess)
    local list = {state}
    for j = 1, #numbers do
      list[j + 1] = format(whole, numbers[j]) .. (open[j] and ':' or '-') .. format(whole, slacks[j])
    end
    local ttl_ms = format(whole, math.ceil((r.us - start) / 1000) + 1)
    call('SET', KEYS[2 * i - 1], state, 'PX', ttl_ms)
    call('SET', KEYS[2 * i], table.concat(list, ';'), 'PX', ttl_ms)
  end
  reply[3 * i + 1], reply[3 * i + 2] = format(whole, r.us), format(whole, r.excess)
  reply[3 * i + 3] = format(whole, r.before_us)
end
return reply
