"""What a reader gets later that can't take more: of events without a place the latest per key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .counters import COUNTS
from .events import Event

#: By `Event.slot`, in the order of their arrival. Readers share the empty one.
Latest = Mapping[tuple[str, ...], Event]

LATEST_EVENTS: Final = 256


def with_latest(kept: Latest, event: Event) -> Latest:
    """Return `kept` with `event`, changed in place if it can be; beyond 256 the oldest goes."""
    latest = kept if isinstance(kept, dict) else {}
    COUNTS.superseded += latest.pop(event.slot, None) is not None
    latest[event.slot] = event
    if len(latest) > LATEST_EVENTS:
        del latest[next(iter(latest))]
        COUNTS.superseded += 1
    return latest


def without_group(kept: Latest, group: str) -> Latest:
    """Return `kept` without the events of `group`."""
    return {slot: event for slot, event in kept.items() if event.group != group}
