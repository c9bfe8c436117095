"""The Lua scripts of the shared limits. All keys share one hash tag, so they live on one node."""

from __future__ import annotations

from typing import Final

#: KEYS: leases. ARGV: member, lease in ms, 1 for a new one, and whom that one follows. Ends the
#: leases that lapsed. Returns 0 if the member's own is one of them.
RENEW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREM', KEYS[1], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[3] ~= '1' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""

#: KEYS: leases, then counts. ARGV: member, lifetime of a count in ms, then the limit of each
#: count. Adds one to each, and returns 0; or adds nothing, and returns which one is full.
TAKE: Final = """
for i = 2, #KEYS do
  local held, sum = redis.call('HGETALL', KEYS[i]), 0
  for n = 1, #held, 2 do
    if redis.call('ZSCORE', KEYS[1], held[n]) then sum = sum + tonumber(held[n + 1])
    else redis.call('HDEL', KEYS[i], held[n]) end
  end
  if sum >= tonumber(ARGV[i + 1]) then return i - 1 end
end
for i = 2, #KEYS do
  redis.call('HINCRBY', KEYS[i], ARGV[1], 1)
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
end
return 0
"""

#: KEYS: counts. ARGV: member, lifetime of a count in ms, then what the member has of each.
SAY: Final = """
for i = 1, #KEYS do
  if ARGV[i + 2] == '0' then redis.call('HDEL', KEYS[i], ARGV[1])
  else
    redis.call('HSET', KEYS[i], ARGV[1], ARGV[i + 2])
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
return 0
"""
