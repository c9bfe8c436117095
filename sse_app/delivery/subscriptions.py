"""`Subscription`: one reader's positions in its groups, live or catching up from the log.

A live subscription gets each event as the topic delivers it. A subscription that replays, or whose
sink can't take more, is not live and gets no events from topics: it reads pages of the log until
it has the positions of the topics, and becomes live in that same iteration of the loop. So no
events are queued for a replay, and a reader that lags costs its cursor and one page.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from ..eventlog.contract import Discontinuity, Reason
from ..protocol.cursors import Position, encode_cursor
from ..protocol.events import Event
from ..runtime.forks import at_fork
from ..runtime.telemetry import COUNTS, log_fields
from .cohorts import Cohort, join_cohort
from .feed import Feed
from .notify import Interruptible, Notify
from .replay import STATE, Beginning, first_of
from .sinks import Sink
from .topics import Encoded, Kind, follows

logger = logging.getLogger("sse_app")

#: The latest non-durable events by `Event.slot`, in the order of their arrival.
Latest = Mapping[tuple[str, ...], Event]

LATEST_EVENTS: Final = 256


def with_latest(kept: Latest, event: Event) -> Latest:
    """Return `kept` with `event`; beyond `LATEST_EVENTS` without the oldest event.

    A dict is changed; the empty mapping that all readers share is replaced.
    """
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


#: After this many events that a filter did not show, the client gets the cursor by `sse.cursor`.
PASSED_EVENTS: Final = 500

# Shared, because thousands of readers would each keep empty objects of their own.
_ALL: Final[frozenset[str]] = frozenset()
EMPTY: Final[Mapping[Any, Any]] = MappingProxyType({})
_lock = threading.Lock()
_holds = itertools.count(1)


class Subscription(Interruptible):
    """A reader of some groups. Its owner makes it, joins it to a hub and awaits `run()`.

    `flags`: those of `Kind`.
    """

    def __init__(
        self, sink: Sink, groups: Collection[str], names: Collection[str] = (), **flags: bool
    ) -> None:
        super().__init__()
        self.sink = sink
        self.groups = tuple(dict.fromkeys(groups))
        self.kind = Kind(self.groups, **flags)
        self.names = frozenset(names) if names else _ALL
        self.positions: dict[str, Position] = {}
        self.live = False
        #: Whether the sink could take no more, and the events since then are still being read.
        self.lagging = False
        #: While this is not 0, no events are shown, because the reader's rights are being checked.
        self.held = 0
        self.close_reason: str | None = None
        self.closed_groups: Collection[str] = ()
        #: By group, how the reader begins there.
        self._first: Mapping[str, Beginning] = EMPTY
        self._latest: Latest = EMPTY
        self._passed = 0
        #: The cohort that writes to the socket, and the index among its members.
        self.cohort: Cohort | None = None
        self.index = 0
        self._notify = Notify()

    @property
    def cursor(self) -> str:
        """The cursor after all events that were shown or passed over, as an id."""
        return encode_cursor(self.positions, time.time())

    def close(self, reason: str) -> None:
        """End `run()`; the first reason counts."""
        self.mute(reason)
        self._notify.set()
        self._interrupt()

    def mute(self, reason: str, groups: Collection[str] = ()) -> None:
        """See `Stream.mute()`; the first reason and its `groups` count."""
        with _lock:
            if self.close_reason is None:
                self.closed_groups, self.close_reason = groups, reason
        self.live = False
        self.stand_out()

    def stand_out(self) -> None:
        """Leave the cohort before the next event is offered. From any thread."""
        if (cohort := self.cohort) is not None:
            cohort.suspect(self)

    def hold(self) -> None:
        """Show no events until `release()`; none is lost. From any thread."""
        with _lock:
            self.held = next(_holds)
        self.stand_out()

    def leave_cohort(self) -> None:
        """Be served alone, until `join_cohort()`."""
        if self.cohort is not None:
            self.cohort.leave(self)

    def release(self, held: int) -> None:
        """Continue, unless the subscription was held again since `held` was read."""
        with _lock:
            if self.held != held:
                return
            self.held = 0
        self._notify.set()

    async def run(self, feed: Feed) -> str:
        """Deliver until `close()`; return its reason."""
        while self.close_reason is None:
            feed.behind.add(self.sink)
            await self._catch_up(feed)
            join_cohort(self, feed)
            if self.live:
                feed.behind.discard(self.sink)
                await self._notify.next()
        return self.close_reason

    # --- from the topics, in the order of each group's log ---

    def offer(self, event: Event, position: Position | None, encoded: Encoded) -> bool:
        """See `Listener.offer()`. Unless live, keep the latest non-durable events per key."""
        if self.close_reason is not None or event.group not in self.groups:
            return False
        if self.live and (self.held or not self.sink.ready or not self._is_next(position, event)):
            self._lag()
        if self.live:
            return self._take(event, position, encoded)
        if position is None and self._shows(event):
            self._latest = with_latest(self._latest, event)
        return False

    def take_alone(self, event: Event) -> None:
        """Take a non-durable event that is for this reader only, whatever its groups are."""
        if self.close_reason is not None:
            return
        self._latest = with_latest(self._latest, event)
        if self.live and self.sink.ready and not self.held:
            self._show_latest()
        else:
            self._lag()

    def restart(self, group: str, reason: Reason, head: Position) -> None:
        """Continue from `head` in `group`, and show that earlier events are lost.

        A subscription that is catching up needs nothing here: its next read raises `Discontinuity`
        if the log no longer continues from its position.
        """
        if self.live:
            self.begin(group, Beginning(head, reason))
        self._lag()

    def drop(self, group: str) -> None:
        """Stop reading `group`. Call `Hub.drop()`, which also removes it from the topic."""
        self.leave_cohort()
        self.groups = tuple(other for other in self.groups if other != group)
        self.kind = self.kind._replace(groups=self.groups)
        self.positions.pop(group, None)
        self._shown(group)
        self._latest = without_group(self._latest, group)
        self._interrupt()

    def begin(self, group: str, beginning: Beginning) -> None:
        """Show `beginning` before the next event of `group`."""
        self._first = {**self._first, group: beginning}

    # --- catching up ---

    async def _catch_up(self, feed: Feed) -> None:
        while self.close_reason is None:
            if self.held:
                await self._notify.next()
                continue
            if not self.sink.ready:
                await self._unless_interrupted(self.sink.drained)
                continue
            if self._first:
                group = next(iter(self._first))
                await self._unless_interrupted(partial(self._show_first, feed, group))
                continue
            behind = next((g for g in self.groups if not feed.is_at(g, self.positions[g])), None)
            if behind is None:
                COUNTS.caught_up += self.lagging
                self.live, self.lagging = True, False
                self._show_latest()
                return
            try:
                read = partial(feed.read, behind, self.positions[behind])
                events = await self._unless_interrupted(read)
            except Discontinuity as lost:
                if behind in self.positions:
                    feed.snapshots.forget(behind, self.positions[behind])
                    self.begin(behind, Beginning(lost.head, lost.reason))
                continue
            if events:
                self._show_page(feed, behind, events)
            elif events is not None:
                # The reader has events that this process has not got yet, from another process.
                await self._unless_interrupted(partial(feed.heal, behind))

    def _show_page(self, feed: Feed, group: str, events: Sequence[Event]) -> None:
        for event in events:
            if not self._may_show:
                return  # The rest is read again, from the reader's positions.
            if group in self.positions and self._take(event, position := event.position, {}):
                feed.topics[group].reach(position, 1)

    async def _show_first(self, feed: Feed, group: str) -> None:
        beginning = self._first[group]
        if beginning.events:
            self._shown(group)
            self._show_page(feed, group, beginning.events)
        elif beginning.reason is not None:
            await self._show_reset(feed, group, beginning, beginning.reason)
        else:
            state = await feed.snapshots.state(group)
            if self._still_begins(group, beginning):
                self.positions[group] = state.position
                self._shown(group)
                self.sink.snapshot(state, self.cursor)

    async def _show_reset(
        self, feed: Feed, group: str, beginning: Beginning, reason: Reason
    ) -> None:
        following = Beginning(beginning.head)
        if self.sink.takes_first:
            following = await first_of(feed, group, beginning.head)
        if self._still_begins(group, beginning):
            self.positions[group] = following.head
            self._shown(group)
            self.sink.reset(group, reason, self.cursor)
            if following == STATE or following.events:
                self.begin(group, following)

    def _still_begins(self, group: str, beginning: Beginning) -> bool:
        """Whether the result of a read for `beginning` may be shown; else it is read again."""
        return self._first.get(group) is beginning and self._may_show

    def _shown(self, group: str) -> None:
        self._first = {name: of for name, of in self._first.items() if name != group} or EMPTY

    @property
    def _may_show(self) -> bool:
        return self.close_reason is None and not self.held and self.sink.ready

    def _is_next(self, position: Position | None, event: Event) -> bool:
        return position is None or follows(event, self.positions[event.group])

    def _lag(self) -> None:
        if not self.lagging and not self.sink.ready:
            self.lagging = True
            COUNTS.lagged += 1
        self.live = False
        self._notify.set()

    def _take(self, event: Event, position: Position | None, encoded: Encoded) -> bool:
        if position is not None:
            self.positions[event.group] = position
        if self._shows(event):
            self._passed = 0
            if event.excluded and show_except(self, event, "" if position is None else self.cursor):
                return True
            if (known := encoded.get(kind := self.kind)) is None:
                cursor = "" if position is None else self.cursor
                known = encoded[kind] = cursor, event.encode(cursor, labelled=kind.labelled)
            self.sink.show(event, *known)
            return True
        if position is not None:
            self._passed += 1
            if self._passed >= PASSED_EVENTS:
                self._passed = 0
                self.sink.passed(self.cursor)
        return False

    def _show_latest(self) -> None:
        latest, self._latest = self._latest, EMPTY
        COUNTS.delivered += len(latest)
        for event in latest.values():
            if not (event.excluded and show_except(self, event, "")):
                self.sink.show(event, "", event.encode(labelled=self.kind.labelled))

    def _shows(self, event: Event) -> bool:
        return not self.names or event.name in self.names


def show_except(subscription: Subscription, event: Event, cursor: str) -> bool:
    """Show an event to the tabs that it does not exclude; return False if it excludes none here.

    If no tab is left, the client gets the new `cursor` only.
    """
    sink = subscription.sink
    tabs = sink.hidden(event)
    if tabs is None:
        return False
    if tabs:
        block = event.encode(cursor, labelled=subscription.kind.labelled)
        sink.show(event, cursor, f"except: {' '.join(tabs)}\n".encode("ascii") + block)
    elif cursor:
        sink.passed(cursor)
    return True


def _reset_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


at_fork(_reset_after_fork)

RETRY_SECONDS: Final = 1.0


async def run_with_retries(subscription: Subscription, feed: Feed) -> str:
    """See `Subscription.run()`; while the event log can't be read, try again."""
    while True:
        try:
            return await subscription.run(feed)
        except Exception as error:
            # The subscription keeps its positions, so no event is lost by waiting.
            logger.warning(
                "The event log can't be read: %r",
                error,
                extra=log_fields(groups=subscription.groups, error=error),
            )
            await asyncio.sleep(RETRY_SECONDS)
