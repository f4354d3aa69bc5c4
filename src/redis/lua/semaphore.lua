-- A semaphore: permits that are leases, and the line of those who wait for one. One script for all that is done with it: a
-- call carries any number of steps, and whatever they were, free permits then go to the heads of the line.
--
-- KEYS   held, line, listeners; all in one slot, with the lists of news, whose names are made from the first (see `news`)
-- ARGV   capacity, listener, beat_us, then four for each step: verb, id, term_us, place. An id is 'listener:number'; a
--        listener is an event loop, or the threads of a process, and has one list of news on which it sleeps. beat_us: how
--        long those whom it listens for stay in line without another word from it.
--          enter  joins the end of the line
--          wait   is in line still: joins it again, at its place, where the server has lost it
--          leave  ends a lease, or a place in line
--          renew  extends a lease to term_us from now; writes it again where the server has lost it
-- reply  {held, waiting, lapse_us, place of each step}, all but the first two as text. lapse_us: until the earliest lease lapses
--        if the listener's own are at the head of the line, else -1. A place is 0 for a holder, -1 for neither, else where it is
--        in line: an instant that grows from one to the next.
-- state  held: sorted set, id -> the instant at which the lease lapses. line: sorted set, id -> place. listeners: sorted
--        set, listener -> until when it is heard of. news: a list of the ids that were given a permit by a call of others. Until
--        its holder renews it, such a lease ends when the listener would not be heard of any more: one that has died
--        does not keep it for long. Each key expires after all that is in it.
--
-- All instants are the server's, in microseconds, below 2^52 (until the year 2112).
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: what is written depends on the clock, so effects are replicated
end
local call, format = redis.call, string.format
local held, line, listeners = KEYS[1], KEYS[2], KEYS[3]
local capacity, listener, beat = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local start = now()

local function text(number)
  return format('%.0f', number)
end

local function listener_of(id)
  return string.match(id, '^[^:]*')
end

local function news(id)
  return string.sub(held, 1, -5) .. 'news:' .. listener_of(id) -- held ends in 'held'
end

-- The key outlives its last instant.
local function keep(key)
  local last = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  if last[2] then
    call('PEXPIRE', key, text(math.ceil((tonumber(last[2]) - start) / 1000) + 1000))
  end
end

local changed = false
local function hold(id, until_us)
  call('ZADD', held, text(until_us), id)
  changed = true
end

-- What needs no permit, before those that have lapsed are freed: who says a word now has not lapsed.
local steps, asks = {}, {}
for i = 4, #ARGV, 4 do
  local step = {verb = ARGV[i], id = ARGV[i + 1], term = tonumber(ARGV[i + 2]), place = tonumber(ARGV[i + 3])}
  steps[#steps + 1] = step
  if step.verb == 'leave' then
    if call('ZREM', held, step.id) == 0 then
      call('ZREM', line, step.id)
    end
  elseif step.verb == 'renew' then
    call('ZREM', line, step.id)
    hold(step.id, start + step.term)
  elseif step.verb == 'enter' or step.verb == 'wait' then
    asks[step.id] = step
  else
    return redis.error_reply("ERR a semaphore has no step '" .. tostring(step.verb) .. "'")
  end
end
for _, id in ipairs(call('ZRANGEBYSCORE', held, '-inf', text(start))) do
  call('ZREM', held, id)
  call('LREM', news(id), 0, id) -- who has not read it by now is told nothing wrong
end
call('ZREMRANGEBYSCORE', listeners, '-inf', text(start))

for _, step in ipairs(steps) do
  if asks[step.id] and not call('ZSCORE', held, step.id) then
    if step.verb == 'wait' then
      call('ZADD', line, 'NX', text(step.place), step.id)
    else
      local last = call('ZREVRANGE', line, 0, 0, 'WITHSCORES')
      call('ZADD', line, 'NX', text(math.max(start, (tonumber(last[2]) or 0) + 1)), step.id)
    end
  end
end

local free = capacity - call('ZCARD', held)
while free > 0 do
  local id = call('ZRANGE', line, 0, 0)[1]
  if not id then
    break
  end
  call('ZREM', line, id)
  if asks[id] then
    hold(id, start + asks[id].term) -- it reads the reply
    free = free - 1
  else
    local heard = call('ZSCORE', listeners, listener_of(id))
    if heard then -- else whoever waited is gone
      hold(id, tonumber(heard))
      call('RPUSH', news(id), id)
      call('PEXPIRE', news(id), text(math.ceil((tonumber(heard) - start) / 1000) + 1000))
      free = free - 1
    end
  end
end

local reply, waits = {call('ZCARD', held), call('ZCARD', line), '-1'}, false
for i, step in ipairs(steps) do
  local place = 0
  if not call('ZSCORE', held, step.id) then
    place = tonumber(call('ZSCORE', line, step.id) or -1)
    waits = waits or place > 0
  end
  reply[3 + i] = text(place)
end
if changed then
  keep(held)
end
if waits then
  call('ZADD', listeners, text(start + beat), listener)
  keep(listeners)
  call('PEXPIRE', line, call('PTTL', listeners)) -- nobody is in line whose listener is not heard of
end
if reply[2] > 0 and listener_of(call('ZRANGE', line, 0, 0)[1]) == listener then
  local first = call('ZRANGE', held, 0, 0, 'WITHSCORES')[2]
  reply[3] = text(math.max((tonumber(first) or start) - start, 0))
end
return reply
