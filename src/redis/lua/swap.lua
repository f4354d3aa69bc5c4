-- Compare and swap: for states that are computed by the client (the ledger of learned limits).
--
-- KEYS   one
-- ARGV   old, new, ttl_ms: bytes; '' stands for a key that is not there
-- reply  {1} when the key held `old`: it holds `new` now, for ttl_ms (0: for good). Else {0, what it holds}.
if redis.replicate_commands and not redis.REDIS_VERSION_NUM then
  redis.replicate_commands() -- older than 7: effects are replicated, as by the other scripts
end

local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[1] then
  return {0, held}
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
elseif ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return {1}
