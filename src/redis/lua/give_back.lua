-- Windows, fixed and sliding: what was taken of a window and not spent is taken off its count again, as long as it is counted.
--
-- KEYS   one per rule, all in one slot
-- ARGV   three per rule: period_us, amount, and the end of the window that it was taken of
-- reply  how many rules it was given back to
-- state  that of fixed_window.lua or of sliding_window.lua: the number of its words tells which
if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: what is written depends on a time to live, so effects are replicated
end
local given = 0
for i = 1, #KEYS do
  local period, amount, window = unpack(ARGV, 3 * i - 2, 3 * i)
  local state = redis.call('GET', KEYS[i])
  local words, ttl = {}, redis.call('PTTL', KEYS[i])
  for word in string.gmatch(state or '', '%d+') do
    words[#words + 1] = word
  end
  -- The windows that a state counts, the last one last.
  local last = tonumber(words[1] or 0) - (#words == 3 and tonumber(period) or 0)
  local at = last == tonumber(window) and #words or (#words == 3 and last - period == tonumber(window)) and 2
  if #words > 1 and at and ttl > 0 then
    words[at] = string.format('%.0f', math.max(0, tonumber(words[at]) - amount))
    redis.call('SET', KEYS[i], table.concat(words, ':'), 'PX', ttl)
    given = given + 1
  end
end
return given
