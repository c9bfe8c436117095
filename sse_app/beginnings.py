"""How a reader begins in a group, new there or after a reset: with a state, last events, or now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from .cursors import LOST, Position
from .eventlog.contract import Reason
from .retained import retained
from .snapshots import source_of

if TYPE_CHECKING:
    from .hub import Hub


class Beginning(NamedTuple):
    """What a reader is to be shown of a group before its events.

    With a `reason`, a reset: what came before can't be had, and the reader goes on from `head`.
    Without one, the group's state.
    """

    head: Position
    reason: Reason | None = None


#: Where it goes on from is known when the state has been read.
STATE: Final = Beginning(LOST)


async def after_reset(hub: Hub, group: str, head: Position) -> Position:
    """Return the place to go on from in a `group` that was reset to `head`.

    It is before what `RETAIN` gives. Where a state is to be shown first, it is `LOST`.
    """
    if source_of(group) is not None:
        return LOST
    count = retained(group)
    return await before_last(hub, group, head, count) if count else head


async def before_last(hub: Hub, group: str, head: Position, last: float) -> Position:
    """Return the place before the `last` events up to `head`; infinity: before all there are."""
    first = await hub.earliest(group)
    offset = int(max(first.offset, head.offset - last))
    if first.epoch == head.epoch and offset <= head.offset:
        return Position(head.epoch, offset)
    return head  # The log began anew since the topic was served; it is about to be told.
