"""The rules by which a log goes back and grows again, under clients that must never miss it.

Here an event is named by its offset and its mark, as two events may have the same name and data.
The model keeps each step that a log ever had from one event to the next. Without a reset between,
a client may only go from event to event by such steps.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sse_app import publish
from sse_app.delivery.hub import get_hub, running_hubs
from sse_app.eventlog import EventLog
from sse_app.protocol.cursors import Cursor, Position
from sse_app.protocol.events import Event

from .browsers import Browser
from .machine import GROUPS, INTERVALS, MOST_BROWSERS, NEVER, groups, losses, pick, some_groups
from .simulation import Process, configure
from .stores import Store

#: An event of a group by its offset and mark; the start of each log.
Spot = tuple[int, str]
BEGINNING: Spot = (0, "")

counts = st.integers(1, 5)


def spot(position: Position | None) -> Spot:
    """Return what a position is behind."""
    assert position is not None, "the id does not mention a group"
    return BEGINNING if position.is_start else (position.offset, position.mark)


class _GroupOf(dict[str, str]):
    """The group of an event by its data, which begins with the group."""

    def __missing__(self, data: str) -> str:
        return data.partition(":")[0]


class Chains:
    """All steps that the logs of the groups ever had, and their heads."""

    def __init__(self) -> None:
        self.group_of = _GroupOf()
        self.delivered: list[str] = []
        self.steps: dict[str, set[tuple[Spot, Spot]]] = {group: set() for group in GROUPS}
        self.spots: dict[str, set[Spot]] = {group: {BEGINNING} for group in GROUPS}
        self.heads: dict[str, Spot] = dict.fromkeys(GROUPS, BEGINNING)
        self.went_back = False

    def learn(self, log: EventLog) -> None:
        """Read the logs as they are."""
        for group in GROUPS:
            before = BEGINNING
            for event in log.since(group, log.earliest(group), 10_000):
                after = spot(event.position)
                assert after[1], "an event without a mark"
                self.steps[group].add((before, after))
                self.spots[group].add(after)
                before = after
            self.heads[group] = before


class Follower(Browser):
    """One page; checks that each event is the next one of a log, or that a reset came first."""

    ledger: Chains  # type: ignore[assignment]  # all that a page asks of a ledger while it connects

    def __init__(self, chains: Chains, groups: Collection[str]) -> None:
        super().__init__(chains, groups, ())  # type: ignore[arg-type]

    def _open(self, given: str | None, start: dict[str, Position], resets: Collection[str]) -> None:
        positions: dict[str, Any] = dict(self.now.positions)
        for group in self.groups:
            if given is None:
                positions[group] = spot(start[group])
            elif group in resets:
                assert self.ledger.went_back, "nothing was lost"
                positions[group] = None  # Until the reset.
            else:
                assert positions[group] == spot(start[group]), "it begins elsewhere"
        id = self._subscription.cursor
        self.sights.append(replace(self.now, item=("open",), id=id, positions=positions))

    def _shown(self, event: Event, id: str) -> None:
        before, after = self.now.positions[event.group], _spot_of(id, event.group)
        assert before is not None, "an event came before the reset"
        step: Any = before, after
        assert step in self.ledger.steps[event.group], f"no reset between {before} and {after}"
        self._go(event.group, after, ("event", event.group, event.data), id)

    def _reset(self, group: str, reason: str, id: str) -> None:
        assert self.ledger.went_back, "nothing was lost"
        after = _spot_of(id, group)
        assert after in self.ledger.spots[group]
        self._go(group, after, ("reset", group, reason), id)

    def _go(self, group: str, after: Spot, item: tuple[Any, ...], id: str) -> None:
        positions: dict[str, Any] = {**self.now.positions, group: after}
        self.sights.append(replace(self.now, item=item, id=id, positions=positions))

    def arrived(self) -> None:
        """Check that the page stands where the logs do."""
        for group in self.groups:
            stands, head = self.now.positions[group], self.ledger.heads[group]
            assert stands == head, f"{self!r} stands at {stands} of {group}, the log at {head}"


def _spot_of(id: str, group: str) -> Spot:
    cursor = Cursor.parse(id)
    assert cursor is not None, f"the id {id!r} can't be read"
    return spot(cursor.get(group))


class GoingBack(RuleBasedStateMachine):
    """Two groups, a few pages, one process, and a log that goes back and grows again."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.followers: list[Follower] = []
        self.copied: Any = None
        self.made = 0

    @initialize()
    def begin_run(self) -> None:
        configure({"EVENT_LOG": self.store.setting, **dict.fromkeys(INTERVALS, NEVER)})
        self.store.lose()
        self.process = Process()
        self.chains = Chains()
        self.connect([*GROUPS])

    # --- what is published ---

    def data(self, group: str, *, equal: bool) -> str:
        """Return the data of an event, which may be that of all others."""
        self.made += 1
        return f"{group}:same" if equal else f"{group}:{self.made}"

    @rule(group=groups, count=counts, equal=st.booleans())
    def publish(self, group: str, count: int, equal: bool) -> None:
        for _ in range(count):
            publish(group, "n", self.data(group, equal=equal))
            self.process.loop.turn()  # Each in a message of its own.
        self.chains.learn(self.process.log)

    @rule(group=groups, count=counts, equal=st.booleans())
    def append_elsewhere(self, group: str, count: int, equal: bool) -> None:
        """As a process does whose messages never arrive."""
        self.process.log.append(
            [Event(group=group, name="n", data=self.data(group, equal=equal)) for _ in range(count)]
        )
        self.chains.learn(self.process.log)

    # --- the log ---

    @rule()
    def copy(self) -> None:
        self.copied = self.store.copy()

    @precondition(lambda self: self.copied is not None)
    @rule(group=groups, count=st.integers(0, 5), equal=st.booleans())
    def go_back(self, group: str, count: int, equal: bool) -> None:
        """Put the copy back and let it grow, before anybody can see the copy."""
        self.store.restore(self.copied)
        self.chains.went_back = True
        self.append_elsewhere(group, count, equal)

    @rule(group=groups, since=counts, count=st.integers(0, 6), equal=st.booleans())
    def lose_what_came_since(self, group: str, since: int, count: int, equal: bool) -> None:
        """Let pages stand where the log will never have been."""
        self.copy()
        self.publish(group, since, equal)
        self.deliver_all()
        self.go_back(group, count, equal)

    @rule()
    def check(self) -> None:
        if running_hubs():
            self.process.run(self.check_heads())

    @staticmethod
    async def check_heads() -> None:
        await get_hub().check()

    # --- the layer ---

    def held(self) -> range:
        return range(len(self.process.layer.held))

    @precondition(lambda self: self.held())
    @rule(index=pick(held), keep=st.booleans())
    def deliver(self, index: int, keep: bool) -> None:
        self.process.deliver(index, keep=keep)

    @precondition(lambda self: self.held())
    @rule()
    def deliver_all(self) -> None:
        while self.held():
            self.process.deliver(0)

    @precondition(lambda self: self.held())
    @rule(index=pick(held))
    def lose(self, index: int) -> None:
        del self.process.layer.held[index]

    # --- the pages ---

    def connected(self) -> list[Follower]:
        return [follower for follower in self.followers if follower.connected]

    def away(self) -> list[Follower]:
        return [follower for follower in self.followers if not follower.connected]

    @precondition(lambda self: len(self.followers) < MOST_BROWSERS)
    @rule(groups=some_groups)
    def connect(self, groups: list[str]) -> None:
        follower = Follower(self.chains, groups)
        self.process.run(follower.connect())
        self.followers.append(follower)

    @precondition(lambda self: self.connected())
    @rule(follower=pick(connected), lost=losses)
    def drop(self, follower: Follower, lost: int) -> None:
        self.process.run(follower.drop(lost))

    @precondition(lambda self: self.away())
    @rule(follower=pick(away))
    def come_back(self, follower: Follower) -> None:
        self.process.run(follower.connect())

    @precondition(lambda self: self.connected())
    @rule(follower=pick(connected), room=st.integers(0, 3))
    def lag(self, follower: Follower, room: int) -> None:
        assert follower.sink is not None
        follower.sink.lag(room)

    @rule()
    def recover(self) -> None:
        for follower in self.connected():
            assert follower.sink is not None
            follower.sink.recover()

    @precondition(lambda self: self.connected())
    @rule(follower=pick(connected))
    def join_cohort(self, follower: Follower) -> None:
        self.process.run(follower.join_cohort())

    @rule(lost=losses)
    def restart(self, lost: int) -> None:
        for follower in self.connected():
            self.process.run(follower.drop(lost))
        self.process.layer.held.clear()

    @rule()
    def settle(self) -> None:
        """Nothing happens any more: every page that is connected gets to the head."""
        self.recover()
        self.deliver_all()
        self.check()
        self.chains.learn(self.process.log)
        self.examine()
        for follower in self.connected():
            follower.arrived()

    @invariant()
    def examine(self) -> None:
        if hasattr(self, "process"):
            self.process.loop.turn()
            for follower in self.followers:
                follower.examine()

    def teardown(self) -> None:
        if not hasattr(self, "process"):
            return
        with ExitStack() as stack:
            stack.callback(self.process.close)
            if sys.exc_info()[0] is None:
                self.settle()
                for follower in self.away():
                    self.process.run(follower.connect())
                self.settle()
                for follower in self.connected():
                    self.process.run(follower.drop())
                assert not running_hubs()
