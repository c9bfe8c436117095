"""Telemetry of this process: its name, the fields of its log records, and its counters.

`log_fields()` returns attributes of a log record, so any JSON formatter writes them. None
of them opens anything: no grant, token, session key or query string is ever among them.

Counting costs a hundredth of a microsecond, whether or not the numbers are read. What is counted
for every event is an int; what happens once in a stream's life is counted by its reason.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from .forks import at_fork

_name = secrets.token_hex(6)


def process_name() -> str:
    """Return the name of this process: random, another one in a forked child."""
    return _name


def _rename() -> None:
    global _name
    _name = secrets.token_hex(6)


at_fork(_rename)


def log_fields(
    *,
    stream: str | None = None,
    user: str | None = None,
    address: str | None = None,
    group: str | None = None,
    groups: Iterable[str] | None = None,
    event: str | None = None,
    events: int | None = None,
    reason: str | None = None,
    seconds: float | None = None,
    bytes: int | None = None,
    error: BaseException | None = None,
) -> dict[str, Any]:
    """Return the fields for `extra=`: those that are given, named `sse_…`, and `sse_process`.

    `stream`: its id. `user`: a primary key as text, or a token's name such as "token:5". `group`
    or `groups`: their names. `event`: its name; `events`: how many. `error`: its type is named.
    """
    given = {
        "stream": stream,
        "user": user,
        "address": address,
        "group": group,
        "groups": None if groups is None else sorted(groups),
        "event": event,
        "events": events,
        "reason": reason,
        "seconds": None if seconds is None else round(seconds, 3),
        "bytes": bytes,
        "error": None if error is None else type(error).__name__,
    }
    found = {f"sse_{name}": value for name, value in given.items() if value is not None}
    return {"sse_process": process_name(), **found}


#: The upper ends of a histogram's buckets, in seconds; one more bucket has what is above.
BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


@dataclass(slots=True)
class Histogram:
    """How long something took, in constant memory: how often in each of its buckets."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one that took `seconds`; below 0, as of a clock that was set, it counts as 0."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        if seconds > 0.0:
            self.sum += seconds


@dataclass(slots=True)
class Counts:
    """Numbers that only grow while the process lives. Where no thread is named, on the hub's loop.

    CPython adds to an attribute of a slot without letting another thread in between.
    """

    #: Streams that began.
    opened: int = 0
    #: Streams that ended, by reason.
    closed: dict[str, int] = field(default_factory=dict)
    #: Requests for a stream that got none, by the reason of `sse.busy` or `sse.close` or by status.
    refused: dict[str, int] = field(default_factory=dict)
    #: `sse.reset` written, by reason.
    resets: dict[str, int] = field(default_factory=dict)
    #: Events that were handed to the channel layer; the durable ones have an offset. Any thread.
    durable: int = 0
    passing: int = 0
    #: How long the event log took for what was published at once or committed. Any thread.
    publish_seconds: Histogram = field(default_factory=Histogram)
    #: How long events were on their way from `layer.send()` to the streams.
    delivery_seconds: Histogram = field(default_factory=Histogram)
    #: How often a group was brought up to the log's head, whatever had been lost.
    heals: int = 0
    #: How often a service of a hub had ended and began again, by its name.
    restarts: dict[str, int] = field(default_factory=dict)
    #: Readers that could take no more, and were left to read the log when they can again.
    lagged: int = 0
    #: Those of them that stood where the topics stand again.
    caught_up: int = 0
    #: Those that were let go, since nothing had left for `STALL_SECONDS`.
    stalled: int = 0
    #: Non-durable events that one of them did not get, for a later one of its key or too many.
    superseded: int = 0
    #: Events shown to readers: one event to a thousand streams counts a thousand.
    delivered: int = 0
    #: Bytes of the bodies of streams.
    bytes: int = 0

    def clear(self) -> None:
        """Count from nothing."""
        new = Counts()
        for name in fields(self):
            setattr(self, name.name, getattr(new, name.name))

    def flat(self) -> dict[str, float]:
        """Return every number by a name: `"heals"`, `"closed.age"`, `"publish_seconds.le.0.01"`.

        A bucket counts what is in it and in no bucket below.
        """
        found: dict[str, float] = {}
        for name in (of.name for of in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Histogram):
                ends = [*map(str, BOUNDS), "+Inf"]
                found |= {
                    f"{name}.le.{end}": count
                    for end, count in zip(ends, value.buckets, strict=True)
                }
                found[f"{name}.sum"] = round(value.sum, 6)
            elif isinstance(value, dict):
                found |= {f"{name}.{reason}": count for reason, count in list(value.items())}
            else:
                found[name] = value
        return found


def count(counter: dict[str, int], reason: str) -> None:
    """Count one more of `reason`."""
    counter[reason] = counter.get(reason, 0) + 1


COUNTS: Final = Counts()

at_fork(COUNTS.clear)
