"""Telemetry of this process: its name, the fields of its log records, and its counters.

`log_fields()` returns attributes of a log record, so any JSON formatter writes them. They never
contain credentials: no grant, token, session key or query string.

Counting costs a hundredth of a microsecond, whether or not the numbers are read. A count for each
event is an int; a count for each stream may be a dict by reason.
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
    """Return the name of this process: random, and another name in a forked child."""
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
    """Return the given fields for `extra=`, with names `sse_…`, and `sse_process`.

    `stream`: an id. `user`: a primary key as text, or a token's name such as "token:5". `group`,
    `groups`, `event`: names; `events`: a number. `error`: an exception; its type
    is named.
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


#: The upper bounds of a histogram's buckets, in seconds; one more bucket has no bound.
BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


@dataclass(slots=True)
class Histogram:
    """Counts durations in buckets, in constant memory."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration. Below 0, as after a clock was set back, it counts as 0."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        if seconds > 0.0:
            self.sum += seconds


@dataclass(slots=True)
class Counts:
    """Numbers that only grow while the process lives. Changed on hubs' loops, else as noted.

    CPython adds to an attribute of a slot without a switch to another thread.
    """

    #: Streams that were opened.
    opened: int = 0
    #: Streams that ended, by reason.
    closed: dict[str, int] = field(default_factory=dict)
    #: Refused requests for a stream, by the reason of `sse.busy` or `sse.close`, or by status.
    refused: dict[str, int] = field(default_factory=dict)
    #: `sse.reset` written, by reason.
    resets: dict[str, int] = field(default_factory=dict)
    #: Durable and non-durable events that were given to the channel layer. Any thread.
    durable: int = 0
    passing: int = 0
    #: Durable events of committed transactions that the event log did not take. Any thread.
    lost: int = 0
    #: How long the event log took to append or number published events. Any thread.
    publish_seconds: Histogram = field(default_factory=Histogram)
    #: The time from `layer.send()` until the write to the streams.
    delivery_seconds: Histogram = field(default_factory=Histogram)
    #: How often a topic was brought up to the log's head.
    heals: int = 0
    #: How often a service of a hub ended and was started again, by its name.
    restarts: dict[str, int] = field(default_factory=dict)
    #: Readers that lagged: they could take no more, and read the log later.
    lagged: int = 0
    #: Readers that lagged and became live again.
    caught_up: int = 0
    #: Readers that were disconnected, because no bytes were sent for `STALL_SECONDS`.
    stalled: int = 0
    #: Non-durable events that a lagging reader did not get, replaced by later events or dropped.
    superseded: int = 0
    #: Events shown to readers: one event to a thousand streams counts a thousand.
    delivered: int = 0
    #: Bytes of the bodies of streams.
    bytes: int = 0

    def clear(self) -> None:
        """Set all numbers to zero."""
        new = Counts()
        for name in fields(self):
            setattr(self, name.name, getattr(new, name.name))

    def flat(self) -> dict[str, float]:
        """Return every number by a name: `"heals"`, `"closed.age"`, `"publish_seconds.le.0.01"`.

        Buckets are not cumulative.
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
