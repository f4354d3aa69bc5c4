-- Windows: gives back a cost that was taken and not used, if what it was taken from still counts.
--
-- KEYS   one per rule, all in one slot
-- ARGV   three numbers per rule: end_us, period_us, amount. end_us is that of the state which the decision left: it says
--        which window was charged. Numbers may begin with zeros.
-- reply  {1}
-- state  that of fixed_window.lua, or of sliding_window.lua, where the amount may have become the earlier window's. A window
--        that is over, or a state that is gone, has nothing to give back to.
if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: effects are replicated, as all scripts here have it
end
local call, match = redis.call, string.match

local function less(count, amount)
  return string.format('%.0f', math.max(tonumber(count) - amount, 0))
end

for i = 1, #KEYS do
  local charged, period = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1])
  local amount = tonumber(ARGV[3 * i])
  local state = call('GET', KEYS[i])
  local ttl_ms = call('PTTL', KEYS[i])
  if state and ttl_ms > 0 and amount > 0 then
    local after
    local ends, previous, current = match(state, '^(%d+):(%d+):(%d+)$')
    if ends and tonumber(ends) == charged then
      after = ends .. ':' .. previous .. ':' .. less(current, amount)
    elseif ends and tonumber(ends) == charged + period then
      after = ends .. ':' .. less(previous, amount) .. ':' .. current
    elseif not ends then
      local count
      ends, count = match(state, '^(%d+):(%d+)$')
      if ends and tonumber(ends) == charged then
        after = ends .. ':' .. less(count, amount)
      end
    end
    if after then
      call('SET', KEYS[i], after, 'PX', string.format('%.0f', ttl_ms))
    end
  end
end
return {1}
