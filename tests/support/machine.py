"""The rules by which streams live: publish, commit, lose a message, drop a client, prune, flush.

After every step the log is compared with the ledger, and what arrived with both; at the end of
every run all clients have to stand at the head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sse_app import publish, publish_many
from sse_app.delivery.hub import get_hub, running_hubs
from sse_app.eventlog import DatabaseEventLog
from sse_app.protocol.cursors import Position
from sse_app.publishing import outbox

from .browsers import Browser
from .ledger import Entry, GroupLedger, Ledger, plain
from .simulation import Clock, Process, Writer, configure, events_of
from .stores import Store

GROUPS = ("a", "b")
NAMES = ("one", "two")
HOUR = 3600.0
AGE = 24 * HOUR
MOST_BROWSERS = 4
NEVER = 1e9
INTERVALS = ("CHECK_INTERVAL", "SWEEP_INTERVAL", "PRUNE_INTERVAL", "REVALIDATE_INTERVAL")

groups = st.sampled_from(GROUPS)
names = st.sampled_from(NAMES)
runs = st.lists(names, min_size=1, max_size=6)
batches = st.lists(st.tuples(groups, names), min_size=1, max_size=4)
some_groups = st.sets(groups, min_size=1).map(sorted)
ends = st.sampled_from(["commit", "die", "roll back"])
keys = st.sampled_from([None, "k"])
filters = st.sampled_from([(), (), ("one",)])
#: What a page comes back with: None is the id that it kept.
ids = st.sampled_from([None, None, None, "?", "1.x", "2.aaaaaaaa-0-0"])
losses = st.integers(0, 4)


def pick(among: Callable[[Any], Any]) -> Any:
    """Draw one of what the machine has at this moment."""
    return st.runner().flatmap(lambda machine: st.sampled_from(list(among(machine))))


class Streams(RuleBasedStateMachine):
    """Two groups, a few browsers, one or two transactions, one process."""

    def __init__(self, store: Store, writers: list[Writer]) -> None:
        super().__init__()
        self.store = store
        self.writers = writers
        self.clock = Clock()
        self.clock_in_force = self.clock.in_force()
        self.clock_in_force.__enter__()
        self.browsers: list[Browser] = []
        self.staged: dict[Writer, list[tuple[int, Entry]]] = {}
        self.staged_passing: dict[Writer, list[str]] = {}
        self.order = 0
        self.copied: tuple[Any, dict[str, GroupLedger]] | None = None

    @initialize(keep=st.sampled_from([4, 10_000]))
    def begin_run(self, keep: int) -> None:
        configure(
            {
                "EVENT_LOG": self.store.setting,
                **dict.fromkeys(INTERVALS, NEVER),
                "RETENTION_EVENTS": keep,
                "RETENTION_SECONDS": AGE,
            }
        )
        self.store.lose()
        self.process = Process()
        self.ledger = Ledger(GROUPS, keep, AGE, self.clock)
        self.connect([*GROUPS], ())

    # --- publishing ---

    @property
    def may_write(self) -> bool:
        """SQLite has one writer at a time: nobody else may write while a transaction is open."""
        return not self.staged or self.store.alias != "default"

    @precondition(lambda self: self.may_write)
    @rule(group=groups, names=runs)
    def publish_one_by_one(self, group: str, names: list[str]) -> None:
        for name in names:
            self.append([self.make(group, name)])
            self.process.loop.turn()  # Each in a message of its own.

    @precondition(lambda self: self.may_write)
    @rule(batch=batches)
    def publish_together(self, batch: list[tuple[str, str]]) -> None:
        self.append([self.make(*event) for event in batch])

    def append(self, entries: list[Entry]) -> None:
        self.publish_entries(entries)
        self.ledger.append(entries)
        self.learn()

    @rule(passing=st.lists(st.tuples(groups, names, keys), min_size=1, max_size=4))
    def publish_passing(self, passing: list[tuple[str, str, str | None]]) -> None:
        for group, name, key in passing:
            entry = self.make(group, name)
            publish(group, name, entry.data, durable=False, key=key)
            self.ledger.passing.add(entry.data)

    def make(self, group: str, name: str) -> Entry:
        return self.ledger.make(group, name)

    @staticmethod
    def publish_entries(entries: list[Entry]) -> None:
        if len(entries) == 1:
            (entry,) = entries
            publish(entry.group, entry.name, entry.data)
        else:
            publish_many((entry.group, entry.name, entry.data) for entry in entries)

    # --- transactions ---

    def idle_writers(self) -> list[Writer]:
        return [writer for writer in self.writers if not writer.is_open]

    @precondition(lambda self: self.idle_writers())
    @rule(writer=pick(idle_writers))
    def begin(self, writer: Writer) -> None:
        writer.begin()
        self.staged[writer], self.staged_passing[writer] = [], []

    @precondition(lambda self: self.staged)
    @rule(
        writer=pick(lambda self: self.staged),
        batch=batches,
        savepoint=st.sampled_from(["none", "kept", "rolled back"]),
    )
    def publish_in_transaction(
        self, writer: Writer, batch: list[tuple[str, str]], savepoint: str
    ) -> None:
        entries = [self.make(*event) for event in batch]
        if savepoint == "none":
            writer.run(lambda: self.publish_entries(entries))
        else:
            keep = savepoint == "kept"
            writer.in_savepoint(lambda: self.publish_entries(entries), keep=keep)
        if savepoint != "rolled back":
            for entry in entries:
                self.order += 1
                self.staged[writer].append((self.order, entry))

    @precondition(lambda self: self.staged)
    @rule(writer=pick(lambda self: self.staged), group=groups, name=names)
    def publish_passing_in_transaction(self, writer: Writer, group: str, name: str) -> None:
        entry = self.make(group, name)
        writer.run(lambda: publish(group, name, entry.data, durable=False, using=writer.alias))
        self.staged_passing[writer].append(entry.data)

    @precondition(lambda self: self.staged)
    @rule(writer=pick(lambda self: self.staged), how=ends)
    def end(self, writer: Writer, how: str) -> None:
        """Commit, commit and not live to number what was committed, or roll back."""
        if how == "roll back":
            writer.roll_back()
            del self.staged[writer], self.staged_passing[writer]
            self.learn()
        elif how == "die" and self.store.alias:
            with mock.patch.object(DatabaseEventLog, "number", side_effect=OSError("died")):
                writer.commit()
            self.committed(writer, numbered=False)
        else:
            writer.commit()
            self.committed(writer)

    @precondition(lambda self: self.idle_writers())
    @rule(writer=pick(idle_writers), batch=batches, how=ends)
    def publish_in_short_transaction(
        self, writer: Writer, batch: list[tuple[str, str]], how: str
    ) -> None:
        self.begin(writer)
        self.publish_in_transaction(writer, batch, "none")
        self.end(writer, how)

    def committed(self, writer: Writer, *, numbered: bool = True) -> None:
        rows = self.staged.pop(writer)
        self.ledger.passing.update(self.staged_passing.pop(writer))
        if self.store.alias is None:
            self.ledger.append([entry for _, entry in rows])
        else:
            for order, entry in rows:
                self.ledger[entry.group].waiting.append((order, entry))
            if numbered:
                self.ledger.number({entry.group for _, entry in rows})
        self.learn()

    @precondition(lambda self: self.may_write)
    @rule()
    def sweep(self) -> None:
        outbox.send(self.process.log.number())
        self.ledger.number(GROUPS)
        self.learn()

    # --- the layer ---

    def held(self) -> range:
        return range(len(self.process.layer.held))

    def deliver(self, index: int, *, keep: bool = False) -> None:
        events = events_of(self.process.layer.held[index][1])
        self.ledger.delivered += [event.data for event in events]
        self.process.deliver(index, keep=keep)
        for event in events:
            # Without any check: what stands before it was read from the log at once.
            for browser in self.connected():
                if event.durable and event.group in browser.groups and not browser.lags:
                    browser.has_come_to(event)

    @precondition(lambda self: self.held())
    @rule()
    def deliver_next(self) -> None:
        self.deliver(0)

    @precondition(lambda self: self.held())
    @rule()
    def deliver_all(self) -> None:
        while self.held():
            self.deliver(0)

    @precondition(lambda self: self.held())
    @rule(index=pick(held), keep=st.booleans())
    def deliver_out_of_order(self, index: int, keep: bool) -> None:
        """And, if it is kept, later once more."""
        self.deliver(index, keep=keep)

    @precondition(lambda self: self.held())
    @rule(index=pick(held))
    def lose(self, index: int) -> None:
        del self.process.layer.held[index]

    # --- clients ---

    def connected(self) -> list[Browser]:
        return [browser for browser in self.browsers if browser.connected]

    def away(self) -> list[Browser]:
        return [browser for browser in self.browsers if not browser.connected]

    @precondition(lambda self: len(self.browsers) < MOST_BROWSERS)
    @rule(groups=some_groups, names=filters)
    def connect(self, groups: list[str], names: tuple[str, ...]) -> None:
        browser = Browser(self.ledger, groups, names)
        self.process.run(browser.connect())
        self.browsers.append(browser)

    @precondition(lambda self: self.connected())
    @rule(browser=pick(connected), lost=losses)
    def drop(self, browser: Browser, lost: int) -> None:
        self.process.run(browser.drop(lost))

    @precondition(lambda self: self.away())
    @rule(browser=pick(away), id=ids)
    def come_back(self, browser: Browser, id: str | None) -> None:
        self.process.run(browser.connect(id))

    @precondition(lambda self: self.connected() and self.may_write)
    @rule(
        browser=pick(connected),
        lost=losses,
        group=groups,
        names=runs,
        others=st.sampled_from(["get nothing", "get it all", "get it all of a new epoch"]),
    )
    def be_away_while_events_come(
        self, browser: Browser, lost: int, group: str, names: list[str], others: str
    ) -> None:
        self.drop(browser, lost)
        if others == "get it all of a new epoch":
            self.renew_epoch([group])
            self.check()
        self.publish_one_by_one(group, names)
        if others != "get nothing":
            self.deliver_all()
        self.come_back(browser, None)

    @precondition(lambda self: self.connected())
    @rule(browser=pick(connected), room=st.integers(0, 3))
    def lag(self, browser: Browser, room: int) -> None:
        assert browser.sink is not None
        browser.sink.lag(room)

    @precondition(lambda self: any(browser.lags for browser in self.browsers))
    @rule()
    def recover(self) -> None:
        for browser in self.connected():
            assert browser.sink is not None
            browser.sink.recover()

    @precondition(lambda self: self.connected())
    @rule(browser=pick(connected))
    def join_cohort(self, browser: Browser) -> None:
        self.process.run(browser.join_cohort())

    @precondition(lambda self: self.connected())
    @rule(browser=pick(connected))
    def review(self, browser: Browser) -> None:
        self.process.run(browser.review())

    # --- the process and the log ---

    @rule(lost=losses)
    def restart(self, lost: int) -> None:
        for browser in self.connected():
            self.process.run(browser.drop(lost))
        assert not running_hubs()
        self.process.layer.held.clear()
        if not self.store.outlives_process:
            self.lose_log()

    @rule()
    def check(self) -> None:
        if self.connected():
            self.process.run(self.check_heads())

    @staticmethod
    async def check_heads() -> None:
        await get_hub().check()

    @staticmethod
    def position(group: str) -> Position:
        """Return where the hub stands."""
        (hub,) = running_hubs()
        return plain(hub.position(group))

    @precondition(lambda self: not self.staged)
    @rule(how=st.sampled_from(["copied", "restored", "restored, and a new epoch", "lost"]))
    def store_is(self, how: str) -> None:
        """Copied, put back to the copy that was made before, or lost."""
        if how == "lost":
            self.lose_log()
        elif self.copied is None or how == "copied":
            if self.store.can_copy:
                self.copied = self.store.copy(), self.ledger.copy()
        else:
            self.restore(*self.copied, by_hand=how != "restored")

    @precondition(lambda self: self.store.can_copy and not self.staged)
    @rule(group=groups, names=runs, by_hand=st.booleans())
    def restore_what_was_a_moment_ago(self, group: str, names: list[str], by_hand: bool) -> None:
        """So that streams stand after the head of the copy."""
        self.store_is("copied")
        self.publish_one_by_one(group, names)
        self.deliver_all()
        self.examine()
        assert self.copied is not None
        self.restore(*self.copied, by_hand=by_hand)

    def lose_log(self) -> None:
        self.store.lose()
        if not self.store.outlives_process:
            self.process.open_log()
        for group in GROUPS:
            self.ledger[group].lose()
        self.learn()

    def restore(self, store: Any, ledger: dict[str, GroupLedger], *, by_hand: bool) -> None:
        """Put a copy back; then all groups get a new epoch, or the hub finds out which need one."""
        self.store.restore(store)
        self.ledger.restore(ledger)
        found = set()
        for group in {group for browser in self.connected() for group in browser.groups}:
            head, stands = self.ledger[group].head, self.position(group)
            if stands.epoch == head.epoch and stands.offset > head.offset:
                found.add(group)
        # What no running process has seen can't be found out: that is what the command is for.
        self.process.log.renew_epoch(set(GROUPS) if by_hand else set(GROUPS) - found)
        self.check()
        for group in GROUPS:
            self.ledger[group].renew()
        self.learn()

    @precondition(lambda self: self.may_write)
    @rule(groups=some_groups)
    def renew_epoch(self, groups: list[str]) -> None:
        self.process.log.renew_epoch(groups)
        for group in groups:
            self.ledger[group].renew()
        self.learn()

    @precondition(lambda self: self.may_write)
    @rule(hours=st.sampled_from([0, 0, 13, 25, 49]))
    def prune(self, hours: int) -> None:
        if hours:
            # Nobody is behind for hours: messages expire, the heads are checked, and a stream that
            # takes nothing is ended.
            self.process.layer.held.clear()
            self.check()
            for browser in self.connected():
                if browser.lags:
                    self.process.run(browser.drop())
            self.examine()
        self.clock.now += hours * HOUR
        self.ledger.prune(self.process.log)
        self.learn()

    @rule()
    def settle(self) -> None:
        """Nothing happens any more: everybody gets to the head."""
        for writer in list(self.staged):
            self.end(writer, "commit")
        self.recover()
        self.sweep()
        while self.held():
            self.deliver(0)
        self.check()
        self.ledger.compare(self.process.log)
        self.examine()
        for browser in self.connected():
            browser.arrived()

    # --- after every step ---

    def learn(self) -> None:
        self.ledger.learn(self.process.log)

    @invariant()
    def examine(self) -> None:
        if hasattr(self, "process"):
            self.process.loop.turn()
            self.clock.now += 1
            for browser in self.browsers:
                browser.examine()

    def teardown(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.clock_in_force.__exit__, None, None, None)
            for writer in self.writers:
                stack.callback(writer.roll_back)
            if not hasattr(self, "process"):
                return
            stack.callback(self.process.close)
            if sys.exc_info()[0] is None:
                self.settle()
                for browser in self.away():
                    self.process.run(browser.connect())
                self.settle()
                for browser in self.connected():
                    self.process.run(browser.drop())
                assert not running_hubs()
