"""The report of this process: its health, its streams by state, its counters and its groups.

The shapes are stored: `ServerProcess` keeps them, and the admin and the metrics read them. Used on
the event loop, and from other threads where a figure may be a moment old.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from heapq import nlargest
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..access import limits_redis
from ..access.readers import held_readers
from ..conf import site_tag
from ..delivery.hub import Hub, running_hubs
from ..delivery.streams import Stream, full_user_key
from ..delivery.topics import Topic
from ..eventlog import event_log
from ..protocol.cursors import Cursor, Position
from ..protocol.groups import CONTROL_GROUP
from ..runtime.forks import at_fork
from ..runtime.telemetry import COUNTS
from ..signals import stream_closed

GROUPS: Final = 500
ENDED: Final = 100
#: Rows that are made in one iteration of the event loop, which takes two or three milliseconds.
SLICE: Final = 200
STATES: Final = ("live", "catching up", "lagging", "held")

Row = dict[str, Any]

_ended: deque[Row] = deque(maxlen=ENDED)
_starts: WeakKeyDictionary[Stream, dict[str, str]] = WeakKeyDictionary()


def report(
    server: str = "", *, layer: str = "ok", log: str = "ok", loop_lag: float = 0.0
) -> dict[str, Any]:
    """Return the report of this process.

    `server`: such as "daphne 4.2.3", empty if the process serves no streams. `layer`, `log`: "ok",
    or the problem of the channel layer or the event log. `loop_lag`: in seconds. The groups are the
    500 with the most subscribers.
    """
    behind = _not_live()
    return {
        "at": time.time(),
        "server": server,
        "site": site_tag(),
        "health": {
            "hub": bool(running_hubs()),
            "layer": layer,
            "log": log,
            "limits_shared": limits_redis.are_shared(),
            "loop_lag": round(loop_lag, 6),
            "draining": Hub.draining,
            "delay": round(event_log().delay(), 3),
        },
        "open": _open(behind),
        "waiting": {
            "bytes": sum(sink.queue for hub in running_hubs() for sink in list(hub.sending)),
            "events": sum(_lag(stream) for stream in behind),
        },
        "counts": counts(),
        "groups": groups(),
    }


def counts() -> dict[str, float]:
    """Return the counters of the process, by name, see `Counts.flat()`.

    Durable events are counted by the class of the log, as in `"published.DatabaseEventLog"`,
    non-durable ones as `"published.none"`.
    """
    found = COUNTS.flat()
    found[f"published.{type(event_log()).__name__}"] = found.pop("durable")
    found["published.none"] = found.pop("passing")
    return found


def groups() -> dict[str, dict[str, int]]:
    """Return the subscribers, published and delivered events of groups with subscribers."""
    found = nlargest(GROUPS, _topics(), key=lambda topic: topic.readers)
    return {
        topic.group: {
            "subscribers": topic.readers,
            "published": topic.published,
            "delivered": topic.delivered,
        }
        for topic in found
    }


def subscribers(group: str) -> int:
    """Return the number of subscribers of `group` in this process now."""
    topics = (hub.topics.get(group) for hub in running_hubs())
    return sum(topic.readers for topic in topics if topic is not None)


def streams() -> list[Stream]:
    """Return the open streams of this process."""
    sinks = (reader.sink for hub in running_hubs() for reader in list(hub.subscriptions))
    return [sink for sink in sinks if isinstance(sink, Stream) and sink.opened]


async def rows() -> dict[str, list[Row]]:
    """Return a row for each open stream, and for the last ones that ended; on the event loop."""
    opened = []
    for count, stream in enumerate(streams(), 1):
        opened.append(row_of(stream))
        if count % SLICE == 0:
            await asyncio.sleep(0)
    return {"open": opened, "ended": list(_ended)}


def row_of(stream: Stream) -> Row:
    """Return the facts about a stream, without secrets that could open another one."""
    groups, start = stream.groups, _start_of(stream)
    return {
        "id": stream.id,
        "user": stream.user.get_username() if stream.user.is_authenticated else "",
        "user_key": full_user_key(stream),
        "address": stream.address,
        "groups": list(groups),
        "events": sorted(stream.subscription.names),
        "opened_at": stream.opened_at,
        "state": state_of(stream),
        "bytes": stream.bytes_sent,
        "queue": stream.queue,
        "lag": _lag(stream),
        "opened": {group: start[group] for group in groups if group in start},
        "positions": {
            group: _text(position)
            for group, position in list(stream.subscription.positions.items())
        },
        "resets": {
            group: [_text(position), reason] for group, (position, reason) in stream.resets.items()
        },
        "taken": [group for group in stream.asked if group not in groups],
        "closed_at": None,
        "reason": stream.close_reason or "",
    }


def _start_of(stream: Stream) -> dict[str, str]:
    """Return the first position of `stream` in each group; kept, as it is needed every second."""
    found = _starts.get(stream)
    if found is None:
        cursor = Cursor.parse(stream.opened)
        positions = {group: cursor.get(group) if cursor else None for group in stream.asked}
        found = {group: _text(position) for group, position in positions.items() if position}
        _starts[stream] = found
    return found


def state_of(stream: Stream) -> str:
    """Return "closed" or one of `STATES`."""
    subscription = stream.subscription
    if subscription.close_reason is not None:
        return "closed"
    if subscription.held:
        return "held"
    if subscription.live:
        return "live"
    return "lagging" if subscription.lagging else "catching up"


def connect_signals() -> None:
    """Start to keep the streams that end last; called once the apps are ready."""
    stream_closed.connect_own(_remember)


def _remember(sender: Any, stream: Stream, **kwargs: Any) -> None:
    _ended.append(row_of(stream) | {"state": "closed", "closed_at": time.time()})


def _not_live() -> list[Stream]:
    """Return the streams that are not live, or are held."""
    found = {sink for hub in running_hubs() for sink in list(hub.behind)}
    found.update(reader.stream for hub in running_hubs() for reader in held_readers(hub.loop))
    return [sink for sink in found if isinstance(sink, Stream)]


def _open(behind: list[Stream]) -> dict[str, int]:
    found = dict.fromkeys(STATES, 0)
    found["live"] = COUNTS.opened - sum(COUNTS.closed.values()) - len(behind)
    for stream in behind:
        state = state_of(stream)
        if state in found:
            found[state] += 1
    return found


def _topics() -> Iterator[Topic]:
    for hub in running_hubs():
        for topic in list(hub.topics.values()):
            if topic.group != CONTROL_GROUP:
                yield topic


def _lag(stream: Stream) -> int:
    """Return the number of events between `stream` and its topics, by their offsets."""
    if stream.subscription.live:
        return 0
    behind = 0
    for group, position in list(stream.subscription.positions.items()):
        topic = stream.hub.topics.get(group)
        head = topic.position if topic else None
        if head is not None:
            behind += max(0, head.offset - (position.offset if position.epoch == head.epoch else 0))
    return behind


def _text(position: Position) -> str:
    return f"{position.epoch}-{position.offset}"


at_fork(_ended.clear)
