"""What every event log promises. The implementations carry no prose of their own about it.

A group's events have contiguous offsets from 1, counted under an epoch: a short random name that
changes whenever the group's history is lost. `(epoch, offset)` is a `Position`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import ClassVar, Final, Literal

from ..protocol.cursors import START, Position
from ..protocol.events import Event

Reason = Literal["trimmed", "epoch", "future", "limit", "unknown"]

#: How many times `RETENTION_SECONDS` a head outlives the last event of its group. A reader that
#: saw a group empty may come back within retention; a head that went by then would let the group
#: begin anew at 1, and the reader would take that for the continuation.
HEAD_RETENTION_FACTOR: Final = 2


class Discontinuity(Exception):
    """Raised by `since()` where it can't continue from a position; `head` is where the log is."""

    def __init__(self, reason: Reason, head: Position) -> None:
        super().__init__(reason, head)
        self.reason: Reason = reason
        self.head = head


def has_events_after(after: Position, head: Position) -> bool:
    """Whether a log that stands at `head` has anything after `after`.

    Raises `Discontinuity` where `after` is no place of this log.
    """
    if after != START and after.epoch != head.epoch:
        raise Discontinuity("epoch", head)
    if after.offset > head.offset:
        raise Discontinuity("future", head)
    return after.offset < head.offset


class EventLog(ABC):
    """An ordered, durable record of events per group.

    Safe to call from any thread; the `a…` twins from any event loop. Each call is atomic: a
    failed `append()` has stored nothing, or everything if only its answer was lost.
    """

    #: Is what one process appends seen by the others?
    shared: ClassVar[bool]

    #: Does it delete what is beyond retention by itself, without `prune()`?
    prunes_itself: ClassVar[bool] = False

    #: The database whose transactions an event can join, if the log lives in a database.
    alias: str | None = None

    def began(self) -> float:
        """Return the Unix time since which this is the same log; 0 where it can't be lost whole.

        Who saw a group empty before may have missed all of another log. The first call after a
        loss decides, so it comes before anybody is told that a group is empty.
        """
        return 0.0

    async def abegan(self) -> float:
        """See `began()`."""
        return 0.0

    @abstractmethod
    def append(self, events: Sequence[Event]) -> list[Event]:
        """Store `events` and return them with their places.

        They follow everything in their groups' logs, in the order given, and nothing of the
        same call stands between two of them in a group. The list ends with the given events;
        before them stand staged ones whose turn it was. Inside a transaction open on `alias` they
        are seen from its commit on, and until then whoever appends to their groups waits.
        """

    @abstractmethod
    async def aappend(self, events: Sequence[Event]) -> list[Event]:
        """See `append()`."""

    @abstractmethod
    def since(self, group: str, after: Position, limit: int) -> list[Event]:
        """Return the contiguous run of at most `limit` events that begins right after `after`.

        Empty only when `after` is the head. Raises `Discontinuity` where the run can't begin:
        `trimmed` (its first event is gone), `epoch` (another log), `future` (after the head).
        `START` fits any epoch.
        """

    @abstractmethod
    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        """See `since()`."""

    @abstractmethod
    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        """Return the position after the last event of each group; `START` where there was none."""

    @abstractmethod
    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        """See `heads()`."""

    def known(self, text: str, limit: int) -> list[str]:
        """Return at most `limit` names of groups that it has and that contain `text`, by name.

        To complete what somebody types: a log that would have to search long leaves some out.
        """
        return []

    @abstractmethod
    def earliest(self, group: str) -> Position:
        """Return the position before the first event that is still there."""

    @abstractmethod
    async def aearliest(self, group: str) -> Position:
        """See `earliest()`."""

    def times(self, group: str, after: int, limit: int) -> dict[int, float]:
        """Return the Unix time of each of the events right after the offset `after`, by offset.

        At most `limit` of them; none where the log does not keep it.
        """
        return {}

    @abstractmethod
    def renew_epoch(self, groups: Collection[str] | None = None, *, only: str | None = None) -> int:
        """Give the groups (None: all) a new epoch, so that every older cursor is reset.

        Offsets go on counting; events that are there stay. `only`: just those whose epoch is
        still this one, so that of several who find the same loss one renews. Returns how many
        groups got one.
        """

    async def arenew_epoch(
        self, groups: Collection[str] | None = None, *, only: str | None = None
    ) -> int:
        """See `renew_epoch()`."""
        return await asyncio.to_thread(self.renew_epoch, groups, only=only)

    @abstractmethod
    def prune(self, limit: int | None = None) -> int:
        """Delete what is beyond retention by age or count; return how many events went.

        At most `limit` of them (None: all), so that nobody has to wait for it long. The head of
        an idle group stays `HEAD_RETENTION_FACTOR` times as long as its events.
        Of a group that matches `RETAIN`, its last events stay, as many as that says, and its head.
        """

    async def aprune(self, limit: int | None = None) -> int:
        """See `prune()`."""
        return await asyncio.to_thread(self.prune, limit)

    async def aclose(self) -> None:  # noqa: B027 - most logs hold nothing open
        """Close what the running loop holds open; it is opened again when it is needed."""

    def stage(self, events: Sequence[Event]) -> None:
        """Store `events` without places in the caller's transaction on `alias`.

        They get their places from `number()`, or from an `append()` to their groups, once that
        transaction has committed; they are gone if it rolls back.
        """
        raise NotImplementedError(f"{type(self).__name__} can't join a transaction.")

    def number(self, groups: Collection[str] | None = None) -> list[Event]:
        """Give staged and committed events of the groups (None: all) their places; return them."""
        return []

    async def anumber(self, groups: Collection[str] | None = None) -> list[Event]:
        """See `number()`."""
        return []

    def watch(self, changed: Callable[[], None]) -> Callable[[], None] | None:
        """Call `changed` from some thread soon after any process appends, until told to stop.

        Returns the function that stops it, or None where the log can't tell: then only asking
        for the heads finds out.
        """
        return None
