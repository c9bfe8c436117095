"""The Lua scripts of the Redis log. Each one is atomic and uses the keys of one group only.

`APPEND` and `RENEW` also add to a stream of the last changes of many groups, see `redis_changes`.
"""

from __future__ import annotations

from typing import Final

#: Removes only the first entries: publishers' clocks may differ, and removing by age alone would
#: leave gaps. `most` bounds the work of one call.
_TRIM: Final = """
local function trim(events, last, keep, before, least, most)
  local first = redis.call('XRANGE', events, '-', '+', 'COUNT', 1)[1]
  if not first then return 0 end
  local from, at = string.match(first[1], '^(%d+)-(%d+)$')
  from = tonumber(from)
  local bound = last - keep
  if tonumber(at) < before then
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

#: The entries that a stream of changes keeps, and perhaps a few more.
KEPT_CHANGES: Final = 10_000

#: The first line of `APPEND` and `RENEW` on a cluster, where the stream of changes has another slot
#: than the head.
_ACROSS_SLOTS: Final = "#!lua flags=allow-cross-slot-keys\n"

#: Adds the head `KEYS[1]` to the stream of changes; `note` is then 1. On a cluster the stream may
#: be on another node than the head, so that the script can't add to it.
_NOTE: Final = f"""
local note = redis.pcall('XADD', changes, 'MAXLEN', '~', {KEPT_CHANGES}, '*', KEYS[1],
  epoch .. ' ' .. last .. ' ' .. mark)
note = type(note) == 'string' and 1 or 0
"""

#: KEYS: head, events, and unless this is a cluster the mark of the whole log, which comes before
#: the first event of a group, and the stream of changes. ARGV: now in ms, retention in ms (0: for
#: ever), retention in events, how many last events `RETAIN` keeps, an epoch for a new group,
#: `HEAD_RETENTION_FACTOR`, then each event's name, data, and mark with its `excluded_text`, and on
#: a cluster the stream of changes. Returns the epoch, the last offset, the mark of the event before
#: these, and on a cluster `note`. A mark is "" if a process of an older version of the app appended
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
    redis.call('SET', KEYS[3], string.sub(ARGV[9], 1, 4), 'NX')
    previous = redis.call('GET', KEYS[3])
  end
end
local mark, last = previous, ''
for i = 7, #ARGV - 2, 3 do
  offset = offset + 1
  last = string.format('%.0f', offset)
  local own, at = string.sub(ARGV[i + 2], 1, 4), last .. '-' .. ARGV[1]
  local entry = {'n', ARGV[i], 'd', ARGV[i + 1], 'm', mark .. own}
  if #ARGV[i + 2] > 4 then entry[7], entry[8] = 'x', string.sub(ARGV[i + 2], 5) end
  redis.call('XADD', KEYS[2], at, unpack(entry))
  mark = own
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', last, 'changed_at', ARGV[1],
  'mark', mark, 'marked', last)
if least > 0 or age == math.huge then
  redis.call('PERSIST', KEYS[1])
  redis.call('PERSIST', KEYS[2])
else
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', age * tonumber(ARGV[6])))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
trim(KEYS[2], offset, keep, now - age, least, 100)
local changes = KEYS[4] or ARGV[#ARGV]
"""
    + _NOTE
    + """
if KEYS[4] then return {epoch, last, previous} end
return {epoch, last, previous, note}
"""
)

#: `APPEND` on a cluster.
CLUSTER_APPEND: Final = _ACROSS_SLOTS + APPEND

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

#: KEYS: head, and unless this is a cluster the stream of changes. ARGV: the new epoch, the expected
#: old one (empty: any), the stream of changes. Returns nothing unless the epoch was renewed, else
#: the new epoch, the last event's offset and mark, and `note`.
RENEW: Final = (
    """
local found = redis.call('HMGET', KEYS[1], 'epoch', 'offset', 'mark', 'marked')
local epoch, last = found[1], found[2]
if not epoch or not last or (ARGV[2] ~= '' and ARGV[2] ~= epoch) then return false end
epoch = ARGV[1]
redis.call('HSET', KEYS[1], 'epoch', epoch)
local mark, changes = found[4] == last and found[3] or '', ARGV[3]
"""
    + _NOTE
    + """
return {epoch, last, mark, note}
"""
)

#: `RENEW` on a cluster.
CLUSTER_RENEW: Final = _ACROSS_SLOTS + RENEW

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
