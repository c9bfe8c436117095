"""`Topic`: one group in one process, delivering the group's log in order, without gap or repeat."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from ..eventlog.contract import Reason
from ..protocol.cursors import Position, encode_cursor, marks_agree
from ..protocol.events import HEARTBEAT, Event, encode_control
from ..protocol.groups import CONTROL_GROUP
from ..runtime.telemetry import COUNTS, log_fields
from .recent import RECENT_EVENTS, Budget, Recent


class Kind(NamedTuple):
    """Streams of one kind get the same bytes.

    They have the same groups. For all or none of them each event is `labelled` with its group, and
    the heartbeats are `sse.ping` (`pings`).
    """

    groups: tuple[str, ...]
    labelled: bool = False
    pings: bool = False

    def heartbeat(self, positions: Mapping[str, Position], before: Mapping[str, Position]) -> bytes:
        """Return the heartbeat of a stream at `positions`, which was at `before` at the last one.

        A ping carries the id if the positions have changed.
        """
        if not self.pings:
            return HEARTBEAT
        id = "" if positions == before else encode_cursor(positions, time.time())
        return encode_control("sse.ping", {}, id=id)


#: The id after one event, and the event's bytes, by kind. All live streams of a kind have the same
#: positions, so the id and the bytes are computed once per kind and shared.
Encoded = dict[Kind, tuple[str, bytes]]

logger = logging.getLogger("sse_app")

AHEAD_EVENTS: Final = 256
#: After this many deliveries, which take some ten milliseconds, other tasks of the loop run.
DELIVERIES: Final = 5000


class Listener(Protocol):
    """One reader of a group, to which the topic delivers directly."""

    groups: tuple[str, ...]

    def offer(self, event: Event, position: Position | None, encoded: Encoded) -> bool:
        """Take the next event of the topic; return whether the event was shown.

        `encoded` is shared by all readers of the event: a kind that is missing there is added.
        """

    def restart(self, group: str, reason: Reason, head: Position) -> None:
        """Continue from `head` in `group`, because earlier events are lost."""

    def close(self, reason: str) -> None:
        """End the reader; the first reason counts."""

    def stand_out(self) -> None:
        """Leave the reader's batch before the next event is offered."""


class Batch(Protocol):
    """Several readers of a group, to which the topic delivers by one call."""

    def __len__(self) -> int: ...

    def drop_suspects(self) -> None:
        """Hand those readers back to the topic that are suspected not to be like the others."""

    def offer(self, event: Event, position: Position | None) -> int:
        """Take the next event of the topic; return how many readers get it."""

    def dissolve(self) -> None:
        """Hand all readers back to the topic."""


def follows(event: Event, previous: Position) -> bool:
    """Whether `event` is the next event after `previous`."""
    return (
        event.offset == previous.offset + 1
        and (event.epoch == previous.epoch or previous.is_start)
        and marks_agree(event.previous, previous.mark)
    )


#: Returns the reader of a stream of the running loop, by the stream's id.
Find = Callable[[str], Listener | None]
_find: Find = lambda stream: None  # noqa: E731


def find_readers_by(find: Find) -> None:
    """Let all topics find the readers that an event excludes; for `apps.ready()`."""
    global _find
    _find = find


class Topic:
    """The subscriptions to one group, and the position up to which its events were delivered.

    `position` is None until the hub has read the group's head. The topics of a hub share the
    memory for their latest events.
    """

    def __init__(self, group: str, budget: Budget | None = None) -> None:
        self.group = group
        self.position: Position | None = None
        #: The readers that are served one by one.
        self.subscriptions: set[Listener] = set()
        #: The readers that are served together, by their kind.
        self.cohorts: dict[Kind, Batch] = {}
        self._recent = Recent(budget or Budget())
        self._ahead: dict[Position, Event] = {}
        self._reached: dict[tuple[str, int], int] = {}
        #: How many events were published to the readers here, and how many deliveries that made:
        #: an event to three readers is one and three. Both only grow.
        self.published = self.delivered = 0
        #: Whether an event came at the position of another event that was delivered. The log may
        #: then have gone back.
        self.contradicted = False

    @property
    def readers(self) -> int:
        """The number of subscriptions. From any thread."""
        alone = len(self.subscriptions)
        return alone + sum(map(len, list(self.cohorts.values()))) if self.cohorts else alone

    @property
    def has_gap(self) -> bool:
        """Whether events wait because earlier events are missing."""
        return bool(self._ahead)

    @property
    def needs_healing(self) -> bool:
        """Whether the log must be read before the topic can continue."""
        return self.position is not None and (self.has_gap or self.contradicted)

    def offer(self, event: Event) -> None:
        """Take an event from the channel layer: deliver it, keep it for later, or drop a repeat."""
        position = event.position
        if position is None:
            self._fan_out(event, None)
        elif self.position is not None and follows(event, self.position):
            self._deliver(event, position)
            self._deliver_ahead()
        elif self._is_repeat(position):
            self.contradicted = self.contradicted or self._recent.contradicts(position)
        elif len(self._ahead) < AHEAD_EVENTS:
            self._ahead[position] = event

    def advance(self, events: Sequence[Event]) -> None:
        """Take a contiguous run from the log; events that were delivered meanwhile are skipped."""
        for event in events:
            position = event.position
            if position and self.position is not None and follows(event, self.position):
                self._deliver(event, position)
        self._deliver_ahead()

    def start(self, head: Position) -> None:
        """Deliver the events after `head`."""
        self.position = head
        self._deliver_ahead()

    def restart(self, reason: Reason, head: Position) -> None:
        """Continue from `head`, and tell all readers that earlier events are lost."""
        self.position = head
        self.contradicted = False
        self._ahead.clear()
        self.forget_recent()
        for cohort in list(self.cohorts.values()):
            cohort.dissolve()
        for subscription in list(self.subscriptions):
            try:
                subscription.restart(self.group, reason, head)
            except Exception:
                _end(subscription)

    @property
    def ahead(self) -> set[Position]:
        """The positions of the events that wait for earlier events."""
        return set(self._ahead)

    def forget_ahead(self, positions: set[Position]) -> None:
        """Drop the waiting events at `positions`, because a read of the log did not find them."""
        for position in positions:
            self._ahead.pop(position, None)

    def recent(self, after: Position, limit: int) -> list[Event] | None:
        """Return up to `limit` events after `after`, or None if memory does not have them all."""
        return self._recent.after(after, limit)

    def remember_earlier(self, events: Sequence[Event]) -> None:
        """Keep a run from the log, if the kept events or the topic's position follow directly."""
        last, first = events[-1].position if events else None, self._recent.first
        if last is not None and (follows(first, last) if first else last == self.position):
            self._recent.prepend(events)

    def forget_recent(self) -> None:
        """Keep no events in memory."""
        self._recent.clear()

    def reached(self, position: Position) -> int:
        """Return how many readers got the event at `position` so far; 0 if it is not recent."""
        return self._reached.get(position[:2], 0)

    def reach(self, position: Position | None, readers: int) -> None:
        """Count `readers` more that got the event at `position`."""
        self.delivered += readers
        if self.group != CONTROL_GROUP:
            COUNTS.delivered += readers
        if position is not None and position[:2] in self._reached:
            self._reached[position[:2]] += readers

    def _is_repeat(self, position: Position) -> bool:
        served = self.position
        return (
            served is not None
            and position.epoch == served.epoch
            and position.offset <= served.offset
        )

    def _deliver(self, event: Event, position: Position) -> None:
        self.position = position
        self._recent.append(event)
        self._fan_out(event, position)

    def _deliver_ahead(self) -> None:
        while self._ahead and self.position is not None:
            following = next(self._following(), None)
            if following is None:
                break
            position, event = following
            del self._ahead[position]
            self._deliver(event, position)
        if self._ahead:
            for position in [position for position in self._ahead if self._is_repeat(position)]:
                del self._ahead[position]

    def _following(self) -> Iterator[tuple[Position, Event]]:
        assert self.position is not None
        served = self.position
        return (item for item in self._ahead.items() if follows(item[1], served))

    def _fan_out(self, event: Event, position: Position | None) -> None:
        encoded: Encoded = {}
        cohorts = list(self.cohorts.values())
        for page in event.excluded:
            reader = _find(page.stream)
            if reader is not None and self.group in reader.groups:
                reader.stand_out()
        for cohort in cohorts:
            cohort.drop_suspects()
        # Copy the set after suspects have left their cohorts but before any cohort is offered the
        # event: a reader that leaves a cohort during delivery is then neither served twice nor
        # skipped.
        alone = list(self.subscriptions)
        event.count_readers(self.readers)
        reached = sum(cohort.offer(event, position) for cohort in cohorts)
        for subscription in alone:
            try:
                reached += subscription.offer(event, position, encoded)
            except Exception:
                _end(subscription)
        self.published += 1
        if position is not None:
            self._reached[position[:2]] = 0
            if len(self._reached) > RECENT_EVENTS:
                del self._reached[next(iter(self._reached))]
        self.reach(position, reached)


def _end(subscription: Listener) -> None:
    """Close a reader that raised, so that the other readers still get the event."""
    logger.exception(
        "A subscription failed and is closed.", extra=log_fields(groups=subscription.groups)
    )
    subscription.close("error")
