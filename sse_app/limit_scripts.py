"""The Lua scripts of the shared limits. All keys share one hash tag, so they live on one node."""

from __future__ import annotations

from typing import Final

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function lives(member)
  local until_ = redis.call('ZSCORE', KEYS[1], member)
  return until_ and tonumber(until_) > now
end
"""

#: KEYS: leases. ARGV: member, lease in ms, 1 for a new one, and whom that one follows. Returns 0
#: for a member whose lease lapsed.
RENEW: Final = (
    _NOW
    + """
if ARGV[3] ~= '1' and not lives(ARGV[1]) then return 0 end
redis.call('ZREM', KEYS[1], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
)

#: KEYS: leases, then counts. ARGV: member, lifetime of a count in ms, then the limit of each
#: count. Adds one to each, and returns 0; or adds nothing, and returns which one is full.
TAKE: Final = (
    _NOW
    + """
for i = 2, #KEYS do
  local held, sum = redis.call('HGETALL', KEYS[i]), 0
  for n = 1, #held, 2 do
    if lives(held[n]) then sum = sum + tonumber(held[n + 1])
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
)

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
