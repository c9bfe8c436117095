"""How a reader begins in a group, new there or after a reset: with a state, past events, or now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .cursors import LOST, Position
from .eventlog.contract import Discontinuity, Reason
from .events import Event
from .feed import Feed
from .retained import retained
from .snapshots import source_of


class Beginning(NamedTuple):
    """What a reader is to be shown of a group before its events.

    With a `reason`, a reset: earlier events are lost, and the reader continues from `head`.
    With `events`, these, which follow `head` in the log. With neither, the group's state.
    """

    head: Position
    reason: Reason | None = None
    events: Sequence[Event] = ()


#: The position from which the reader continues is known when the state has been read.
STATE: Final = Beginning(LOST)


#: How often past events are looked for, if each time they are trimmed before they are read.
TRIES: Final = 3


async def first_of(feed: Feed, group: str, head: Position) -> Beginning:
    """Return how a reader begins that is new in `group`, or was reset there to `head`.

    That is its state, else what `RETAIN` gives, else what comes after `head`.
    """
    if source_of(group) is not None:
        return STATE
    count = retained(group)
    return await past(feed, group, head, count) if count else Beginning(head)


async def past(feed: Feed, group: str, head: Position, last: float) -> Beginning:
    """Return the place before the `last` events up to `head`, and the first events after it.

    If `last` is infinity, that is all events that are left. The events are read here and kept for
    the reader, because the log may trim them before the reader comes to them.
    """
    for _ in range(TRIES):
        first = await feed.earliest(group)
        offset = int(max(first.offset, head.offset - last))
        if first.epoch != head.epoch or offset >= head.offset:
            # No events are left, or the log has a new epoch and the reader will get a reset.
            break
        place = Position(head.epoch, offset)
        try:
            return Beginning(place, events=await feed.read(group, place))
        except Discontinuity:
            continue
    return Beginning(head)
