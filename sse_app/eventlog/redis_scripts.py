"""The Lua scripts of the Redis log. Each one is atomic and uses the keys of one group only."""

from __future__ import annotations

from typing import Final

#: Removes only the first entries: publishers' clocks may differ, and removing by age alone would
#: leave gaps. `most` bounds the work of one call.
_TRIM: Final = """
local function trim(events, last, keep, before, least, most)
  local first = redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  if not first then return 0 end
  local from = tonumber(string.match(first[1], '^%d+'))
  local bound = last - keep
  if tonumber(string.match(first[1], '%d+$')) < before then
    local some = redis.call('XRANGE', events, '-', '+', 'COUNT', most)
    for _, entry in ipairs(some) do
      if tonumber(string.match(entry[1], '%d+$')) >= before then break end
      bound = math.max(bound, tonumber(string.match(entry[1], '^%d+')))
    end
  end
  bound = math.min(bound, last - least, from + most - 1)
  if bound < from then return 0 end
  return redis.call('XTRIM', events, 'MINID', string.format('%.0f', bound + 1))
end
"""

#: KEYS: head, events, and unless this is a cluster the mark of the whole log, which comes before
#: the first event of a group. ARGV: now in ms, retention in ms (0: for ever), retention in events,
#: how many last events `RETAIN` keeps, an epoch for a new group, `HEAD_RETENTION_FACTOR`, then each
#: event's name, data and mark. Returns the epoch, the last offset, and the mark of the event before
#: these; "" for a mark that is not known, because a process of an older version of the app appended
#: last.
APPEND: Final = (
    _TRIM
    + """
local now, age, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local least = tonumber(ARGV[4])
if age == 0 then age = math.huge end
local found = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'mark', 'marked')
local epoch, offset = found[1], tonumber(found[2])
local previous = found[4] == found[2] and found[3] or ''
if not epoch or not offset then
  -- Without the head, the positions of the events that are left are unknown.
  redis.call('DEL', KEYS[2])
  epoch, offset, previous = ARGV[5], 0, ''
  if KEYS[3] then
    -- The first event's mark may serve for a new log, too: nobody compares the two.
    redis.call('SET', KEYS[3], ARGV[9], 'NX')
    previous = redis.call('GET', KEYS[3])
  end
end
local mark = previous
for i = 7, #ARGV, 3 do
  offset = offset + 1
  local id = string.format('%.0f-%.0f', offset, now)
  redis.call('XADD', KEYS[2], id, 'n', ARGV[i], 'd', ARGV[i + 1], 'm', mark .. ARGV[i + 2])
  mark = ARGV[i + 2]
end
local last = string.format('%.0f', offset)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', last, 'changed_at', ARGV[1],
  'mark', mark, 'marked', last)
if least > 0 or age == math.huge then
  redis.call('PERSIST', KEYS[1])
  redis.call('PERSIST', KEYS[2])
else
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', age * tonumber(ARGV[6])))
  redis.call('PEXPIRE', KEYS[2], string.format('%.0f', age))
end
trim(KEYS[2], offset, keep, now - age, least, 100)
return {epoch, last, previous}
"""
)

#: KEYS: one key of the whole log. ARGV: a mark for a new log. Returns the log's mark, which changes
#: when the key was lost.
LOG_MARK: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""

#: KEYS: head, events. ARGV: the offset before the first entry, how many entries. Returns the head
#: as `HMGET` does, and the entries.
READ: Final = """
local head = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'mark', 'marked')
if not head[1] or not head[2] then return {} end
local from = string.format('%.0f', tonumber(ARGV[1]) + 1)
return {head, redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[2])}
"""

#: KEYS: head. ARGV: the new epoch, the expected old one (empty: any). Returns 1 if it was renewed.
RENEW: Final = """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or (ARGV[2] ~= '' and ARGV[2] ~= epoch) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
return 1
"""

#: KEYS: head, events. ARGV: now in ms, retention in ms (0: for ever), retention in events, how many
#: last events `RETAIN` keeps, `HEAD_RETENTION_FACTOR`, how many events to remove at most. Returns
#: how many were removed.
PRUNE: Final = (
    _TRIM
    + """
local now, age = tonumber(ARGV[1]), tonumber(ARGV[2])
if age == 0 then age = math.huge end
local found = redis.call('HMGET', KEYS[1], 'offset', 'changed_at')
if not found[1] or not found[2] then return 0 end
local keep, least, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local pruned = trim(KEYS[2], tonumber(found[1]), keep, now - age, least, most)
local idle = tonumber(found[2]) < now - age * tonumber(ARGV[5])
if idle and redis.call('XLEN', KEYS[2]) == 0 then redis.call('DEL', KEYS[1], KEYS[2]) end
-- The settings may have changed since the last append.
if least > 0 or age == math.huge then
  redis.call('PERSIST', KEYS[1])
  redis.call('PERSIST', KEYS[2])
elseif redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', age * tonumber(ARGV[5])))
  redis.call('PEXPIRE', KEYS[2], string.format('%.0f', age))
end
return pruned
"""
)
