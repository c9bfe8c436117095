"""What every event log promises.

A group's events have contiguous offsets from 1, counted under an epoch: a short random name that
changes whenever the group's history is lost. Each event has a random mark and knows the mark of the
event before it. Epoch, offset and mark are a `Position`.

The marks are a chain. A log that lost its last events (a failover, a restored backup) assigns the
same offsets again; the events there have other marks, so no reader takes them for the next ones.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random
from typing import ClassVar, Final, Literal, NamedTuple

from ..protocol.cursors import MARK_LETTERS, Position, marks_agree
from ..protocol.events import Event
from ..runtime.forks import at_fork

Reason = Literal["trimmed", "epoch", "future", "limit", "unknown"]

#: A group, and the position after which its events are read.
Read = tuple[str, Position]
#: The events of a read, or the error that `since()` raises for it.
Outcome = list[Event] | Exception

#: The head of an idle group is kept for this many times `RETENTION_SECONDS` after the last event.
#: Without the head a group starts again at offset 1. A reader that saw the group empty may
#: reconnect within retention, and would take the new events for the next ones.
HEAD_RETENTION_FACTOR: Final = 2

#: One answer of `changes()` has at most so many heads, or as many as there are groups to ask for.
MOST_CHANGES: Final = 500

#: A project may seed the module `random`: then the logs of two processes would have the same marks,
#: and look like one log. A forked child gets other numbers.
_random: Final = Random()
at_fork(_random.seed)
_PAIRS: Final = [one + two for one in MARK_LETTERS for two in MARK_LETTERS]


class Discontinuity(Exception):
    """Raised by `since()` if the log can't continue from a position; `head` is the log's head."""

    def __init__(self, reason: Reason, head: Position) -> None:
        super().__init__(reason, head)
        self.reason: Reason = reason
        self.head = head


class Changes(NamedTuple):
    """The answer of `changes()`. `since` is for the next call, and means nothing to the caller.

    `heads` is None if the log can't tell what changed; the caller then compares all heads.
    """

    heads: dict[str, Position] | None
    since: object


def most_changes(groups: Collection[str]) -> int:
    """Return the number of changes above which a read of the heads of `groups` costs less."""
    return max(MOST_CHANGES, len(groups))


def has_events_after(after: Position, head: Position) -> bool:
    """Return whether a log whose head is `head` has events after the position `after`.

    Raises `Discontinuity` if `after` is not a position of this log. If there are events, the first
    one's `previous` must also agree, see `check_chain()`.
    """
    if not after.is_start and after.epoch != head.epoch:
        raise Discontinuity("epoch", head)
    if after.offset > head.offset:
        raise Discontinuity("future", head)
    if after.offset == head.offset and not marks_agree(after.mark, head.mark):
        raise Discontinuity("epoch", head)
    return after.offset < head.offset


def check_chain(after: Position, mark: str, head: Position) -> None:
    """Raise `Discontinuity` unless the log has `mark` at the position `after`.

    `mark`: the `previous` of the event after it; for a start, the mark of the whole log.
    """
    if not marks_agree(after.mark, mark):
        raise Discontinuity("epoch", head)


def new_mark() -> str:
    """Return a random mark for an event: one of half a million."""
    number = _random.getrandbits(19)
    return _PAIRS[number >> 10] + _PAIRS[number & 1023]


def new_epoch() -> str:
    """Return a short random name for a group's log."""
    number = _random.getrandbits(40)
    return "".join([_PAIRS[number >> place & 1023] for place in (0, 10, 20, 30)])


def number(events: Iterable[tuple[Event, str]], heads: dict[str, Position]) -> list[Event]:
    """Return the events as the next ones after the `heads` of their groups, which move along.

    Each event comes with its mark.
    """
    numbered = []
    for event, mark in events:
        head = heads[event.group]
        numbered.append(event.following(head, mark))
        heads[event.group] = Position(head.epoch, head.offset + 1, mark)
    return numbered


class EventLog(ABC):
    """An ordered, durable record of events per group.

    The methods can be called from any thread, their `a…` twins from any event loop. Each call is
    atomic: a failed `append()` has stored nothing, or everything if only the answer was lost.
    """

    #: Do other processes see the events that one process appends?
    shared: ClassVar[bool]

    #: Does it delete events beyond retention without calls of `prune()`?
    prunes_itself: ClassVar[bool] = False

    #: The alias of the database whose transactions an event can join, if the log is in a database.
    alias: str | None = None

    #: How many events of several threads one append takes; 0: each thread appends its own.
    most_together: ClassVar[int] = 0

    @abstractmethod
    def append(self, events: Sequence[Event]) -> list[Event]:
        """Store `events` at the ends of their groups' logs; return them with their positions.

        The events of a group get consecutive offsets, in the order given. The list ends with the
        given events; staged events that this call numbered come first. Inside a transaction on
        `alias`, others see the events after its commit; until then, other appends to their groups
        wait.
        """

    @abstractmethod
    async def aappend(self, events: Sequence[Event]) -> list[Event]:
        """See `append()`."""

    def joins(self, events: Sequence[Event]) -> bool:
        """Return whether this thread may append `events` together with those of other threads."""
        return False

    def appends_at_once(self) -> int:
        """Return how many appends of several threads, to other groups each, gain by being at once.

        More of them would only wait for each other.
        """
        return 1

    def append_together(self, batches: Sequence[Sequence[Event]]) -> list[Event] | None:
        """Append the events of several callers, as one `append()`, in any thread of them.

        Returns None if nothing was stored for a reason that may concern some of the callers only:
        then each of them appends alone. Raises the errors that concern all of them.
        """
        return self.append([event for batch in batches for event in batch])

    @abstractmethod
    def since(self, group: str, after: Position, limit: int) -> list[Event]:
        """Return at most `limit` events, contiguous from the first offset after `after`.

        The list is empty only if `after` is the head. Raises `Discontinuity` with the reason
        `trimmed` (the next event was deleted), `epoch` (`after` is of another log, or this log
        went back and has another event there) or `future` (`after` is beyond the head). A start
        fits any epoch.
        """

    @abstractmethod
    async def asince(self, group: str, after: Position, limit: int) -> list[Event]:
        """See `since()`."""

    async def asince_each(self, reads: Sequence[Read], limit: int) -> list[Outcome]:
        """Return what `asince()` returns or raises for each group and position.

        For many readers that are a few events behind: `limit` is small, and the sum of all events
        is in memory at once. A log may read all of them together.
        """
        results = await asyncio.gather(
            *(self.asince(group, after, limit) for group, after in reads), return_exceptions=True
        )
        # Another exception, such as a cancellation, is not for the callers.
        if other := next((r for r in results if not isinstance(r, list | Exception)), None):
            raise other
        return [result for result in results if isinstance(result, list | Exception)]

    @abstractmethod
    def heads(self, groups: Collection[str]) -> dict[str, Position]:
        """Return the position of each group's last event; a start for a group without a log.

        A log that can vanish as a whole has a random mark of its own, which changes with every
        loss: that is the mark of the start, and the `previous` of a group's first event. So a
        reader that saw the group empty learns of a loss.
        """

    @abstractmethod
    async def aheads(self, groups: Collection[str]) -> dict[str, Position]:
        """See `heads()`."""

    def changes(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        """Return the heads of those `groups` that changed since the call that returned `since`.

        `since` is None at the first call. The answer also has the heads of the groups `also`. Its
        cost depends on the number of changes, not of `groups`, which is only searched, from any
        thread. It may have heads that did not change, and it may lack some: those of groups to
        which an older version of the app appended. So a caller must compare all heads from time to
        time. `heads` is None at the first call, if more heads changed than `most_changes()`, and
        if the log shows by a sign that it went back.
        """
        return Changes(None, None)

    async def achanges(
        self, since: object, groups: Collection[str], also: Collection[str] = ()
    ) -> Changes:
        """See `changes()`."""
        return await asyncio.to_thread(self.changes, since, groups, also)

    def known(self, text: str, limit: int) -> list[str]:
        """Return at most `limit` names of groups in the log that contain `text`, sorted.

        For completing a name while it is typed: a log may leave out groups to answer fast.
        """
        return []

    @abstractmethod
    def earliest(self, group: str) -> Position:
        """Return the position before the group's first stored event."""

    @abstractmethod
    async def aearliest(self, group: str) -> Position:
        """See `earliest()`."""

    def times(self, group: str, after: int, limit: int) -> dict[int, float]:
        """Return the Unix times of at most `limit` events after the offset `after`, by offset.

        Empty if the log does not store times.
        """
        return {}

    @abstractmethod
    def renew_epoch(self, groups: Collection[str] | None = None, *, only: str | None = None) -> int:
        """Give the groups (None: all) a new epoch; return how many groups got one.

        Every older cursor is then reset. Offsets continue, and stored events stay. With `only`, a
        group is skipped unless this is still its epoch: of several processes that find the same
        loss, one renews.
        """

    async def arenew_epoch(
        self, groups: Collection[str] | None = None, *, only: str | None = None
    ) -> int:
        """See `renew_epoch()`."""
        return await asyncio.to_thread(self.renew_epoch, groups, only=only)

    @abstractmethod
    def prune(self, limit: int | None = None) -> int:
        """Delete events beyond retention by age or count; return how many were deleted.

        `limit` (None: no limit) keeps the call short. The head of an idle group is kept
        `HEAD_RETENTION_FACTOR` times as long as its events. A group that matches `RETAIN` keeps
        its head and as many last events as that setting says.
        """

    async def aprune(self, limit: int | None = None) -> int:
        """See `prune()`."""
        return await asyncio.to_thread(self.prune, limit)

    async def aclose(self) -> None:  # noqa: B027 - most logs hold nothing open
        """Close the connections of the running loop; the next call opens new ones."""

    def stage(self, events: Sequence[Event]) -> None:
        """Store `events` without offsets in the caller's transaction on `alias`.

        After the commit, `number()` or an `append()` to their groups gives them offsets. A
        rollback removes them. After an error all or none are stored, and the caller's transaction
        is usable.
        """
        raise NotImplementedError(f"{type(self).__name__} can't join a transaction.")

    def number(self, groups: Collection[str] | None = None) -> list[Event]:
        """Give the groups' (None: all) staged, committed events offsets; return these events."""
        return []

    async def anumber(self, groups: Collection[str] | None = None) -> list[Event]:
        """See `number()`."""
        return []

    def delay(self) -> float:
        """Return for how many seconds committed events have waited for their offsets; 0: none.

        As the last `number()` of this process found: another session of the database had locked
        the heads of their groups. Does no I/O.
        """
        return 0.0

    def delayed(self, groups: Collection[str] | None = None) -> dict[str, float]:
        """Return the groups (None: all) with staged, committed events, and since which Unix time.

        The time is when the first of these events was staged.
        """
        return {}

    def watch(self, changed: Callable[[], None]) -> Callable[[], None] | None:
        """Call `changed`, from another thread, soon after any process has appended.

        Returns a function that stops these calls; None for a log that can't notice appends, so
        that its heads must be read to find them. While the log can't tell whether somebody has
        appended, it calls `changed` every second.
        """
        return None
