"""Whatever happens to the log, the layer, the process and the connection: exact, or a reset first.

A machine of rules (publish, commit, lose a message, drop a client, prune, flush, …) against the
real hub and each real log. After every step the log is compared with the ledger and what arrived
with both; at the end of every run all clients have to stand at the head. `make fuzz` runs more.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import connections, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sse_app import layer, publish, publish_many
from sse_app.conf import settings as app_settings
from sse_app.cursors import Position
from sse_app.eventlog import DatabaseEventLog, event_log
from sse_app.hub import get_hub, running_hubs
from sse_app.models import GroupHead, StoredEvent

from .browsers import Browser
from .ledger import Entry, GroupLedger, Ledger
from .simulation import Clock, Process, Writer, app_modules, configure, events_of

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

GROUPS = ("a", "b", "c")
NAMES = ("one", "two")
HOUR = 3600.0
AGE = 24 * HOUR
MOST_BROWSERS = 4
NEVER = 1e9
INTERVALS = ("CHECK_INTERVAL", "SWEEP_INTERVAL", "PRUNE_INTERVAL", "REVALIDATE_INTERVAL")

#: So small that a short run crosses them.
BOUNDS = {"PAGE_EVENTS": 3, "RECENT_EVENTS": 4, "AHEAD_EVENTS": 4, "KEPT_PAGES": 2}

#: Examples in the normal run; FUZZ_EXAMPLES asks for as many random ones, twice as long.
EXAMPLES = {"memory": 300, "sqlite": 120, "postgresql": 60, "redis": 100}
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))

groups = st.sampled_from(GROUPS)
names = st.sampled_from(NAMES)
events = st.lists(st.tuples(groups, names), min_size=1, max_size=4)
some_groups = st.sets(groups, min_size=1).map(sorted)


def pick(among: Callable[[Any], Any]) -> Any:
    """Draw one of what the machine has at this moment."""
    return st.runner().flatmap(lambda machine: st.sampled_from(list(among(machine))))


class Store:
    """What a kind of log keeps its events in: to lose it, to copy it and to put a copy back."""

    alias: str | None = None
    outlives_process = True
    can_copy = True

    def __init__(self, setting: Any) -> None:
        self.setting = setting

    def lose(self) -> None:
        raise NotImplementedError

    def copy(self) -> Any:
        raise NotImplementedError

    def restore(self, copy: Any) -> None:
        raise NotImplementedError


class MemoryStore(Store):
    outlives_process = False
    can_copy = False

    def lose(self) -> None:
        pass  # It goes with the log object.


class DatabaseStore(Store):
    def __init__(self, alias: str) -> None:
        super().__init__({"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": alias})
        self.alias = alias

    def lose(self) -> None:
        self.restore(([], []))

    def copy(self) -> Any:
        return [list(kind.objects.using(self.alias)) for kind in (GroupHead, StoredEvent)]

    def restore(self, copy: Any) -> None:
        with transaction.atomic(using=self.alias):
            for kind, rows in zip((GroupHead, StoredEvent), copy, strict=True):
                kind.objects.using(self.alias).all().delete()
                kind.objects.using(self.alias).bulk_create(rows)


class RedisStore(Store):
    def __init__(self, url: str) -> None:
        import redis

        self.prefix = f"test.{uuid.uuid4().hex}"
        super().__init__(
            {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": url, "PREFIX": self.prefix}
        )
        self.client = redis.Redis.from_url(url)

    def _keys(self) -> list[bytes]:
        return list(self.client.scan_iter(match=f"{self.prefix}:*", count=1000))

    def lose(self) -> None:
        if keys := self._keys():
            self.client.delete(*keys)

    def copy(self) -> Any:
        return {key: self.client.dump(key) for key in self._keys()}

    def restore(self, copy: Any) -> None:
        self.lose()
        for key, value in copy.items():
            self.client.restore(key, 0, value)


class Streams(RuleBasedStateMachine):
    """Three groups, a few browsers, one or two transactions, one process."""

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

    # --- publishing ---

    @property
    def may_write(self) -> bool:
        """SQLite has one writer at a time: nobody else may write while a transaction is open."""
        return not self.staged or self.store.alias != "default"

    @precondition(lambda self: self.may_write)
    @rule(events=events)
    def publish(self, events: list[tuple[str, str]]) -> None:
        entries = [self.make(*event) for event in events]
        self.publish_entries(entries)
        self.ledger.append(entries)
        self.learn()

    @rule(group=groups, name=names, key=st.sampled_from([None, "k"]))
    def publish_passing(self, group: str, name: str, key: str | None) -> None:
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
    @rule(writer=pick(lambda self: self.staged), events=events)
    def publish_in_transaction(self, writer: Writer, events: list[tuple[str, str]]) -> None:
        entries = [self.make(*event) for event in events]
        writer.run(lambda: self.publish_entries(entries))
        self.stage(writer, entries)

    @precondition(lambda self: self.staged)
    @rule(writer=pick(lambda self: self.staged), events=events, keep=st.booleans())
    def publish_in_savepoint(
        self, writer: Writer, events: list[tuple[str, str]], keep: bool
    ) -> None:
        entries = [self.make(*event) for event in events]
        writer.in_savepoint(lambda: self.publish_entries(entries), keep=keep)
        if keep:
            self.stage(writer, entries)

    @precondition(lambda self: self.staged)
    @rule(writer=pick(lambda self: self.staged), group=groups, name=names)
    def publish_passing_in_transaction(self, writer: Writer, group: str, name: str) -> None:
        entry = self.make(group, name)
        writer.run(lambda: publish(group, name, entry.data, durable=False, using=writer.alias))
        self.staged_passing[writer].append(entry.data)

    def stage(self, writer: Writer, entries: list[Entry]) -> None:
        for entry in entries:
            self.order += 1
            self.staged[writer].append((self.order, entry))

    @precondition(lambda self: self.staged)
    @rule(writer=pick(lambda self: self.staged))
    def commit(self, writer: Writer) -> None:
        writer.commit()
        self.committed(writer)

    @precondition(lambda self: self.staged and self.store.alias)
    @rule(writer=pick(lambda self: self.staged))
    def die_after_commit(self, writer: Writer) -> None:
        """The publisher commits, and does not live to number what it committed."""
        with mock.patch.object(DatabaseEventLog, "number", side_effect=OSError("died")):
            writer.commit()
        self.committed(writer, numbered=False)

    @precondition(lambda self: self.staged)
    @rule(writer=pick(lambda self: self.staged))
    def roll_back(self, writer: Writer) -> None:
        writer.roll_back()
        del self.staged[writer], self.staged_passing[writer]
        self.learn()

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
        layer.send(self.process.log.number())
        self.ledger.number(GROUPS)
        self.learn()

    # --- the layer ---

    def held(self) -> range:
        return range(len(self.process.layer.held))

    def deliver(self, index: int, *, keep: bool = False) -> None:
        _, message = self.process.layer.held[index]
        self.ledger.delivered += [event.data for event in events_of(message)]
        self.process.deliver(index, keep=keep)

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
    @rule(index=pick(held))
    def deliver_out_of_order(self, index: int) -> None:
        self.deliver(index)

    @precondition(lambda self: self.held())
    @rule(index=pick(held))
    def deliver_and_repeat_later(self, index: int) -> None:
        self.deliver(index, keep=True)

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
    @rule(groups=some_groups, names=st.sampled_from([(), (), ("one",)]))
    def connect(self, groups: list[str], names: tuple[str, ...]) -> None:
        browser = Browser(self.ledger, groups, names)
        self.process.run(browser.connect())
        self.browsers.append(browser)

    @precondition(lambda self: self.connected())
    @rule(browser=pick(connected), lost=st.integers(0, 4))
    def drop(self, browser: Browser, lost: int) -> None:
        self.process.run(browser.drop(lost))

    @precondition(lambda self: self.away())
    @rule(browser=pick(away))
    def come_back(self, browser: Browser) -> None:
        self.process.run(browser.connect())

    @precondition(lambda self: self.away())
    @rule(browser=pick(away), id=st.sampled_from(["?", "1.x", "2.aaaaaaaa-0-0"]))
    def come_back_with_an_id_that_cannot_be_read(self, browser: Browser, id: str) -> None:
        self.process.run(browser.connect(id))

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

    # --- the process and the log ---

    @rule(lost=st.integers(0, 4))
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
        return hub.position(group)

    @precondition(lambda self: not self.staged)
    @rule()
    def lose_log(self) -> None:
        self.store.lose()
        if not self.store.outlives_process:
            self.process.open_log()
        for group in GROUPS:
            self.ledger[group].lose()
        self.learn()

    @precondition(lambda self: self.may_write)
    @rule(groups=some_groups)
    def renew_epoch(self, groups: list[str]) -> None:
        self.process.log.renew_epoch(groups)
        for group in groups:
            self.ledger[group].renew()
        self.learn()

    @precondition(lambda self: self.store.can_copy and not self.staged)
    @rule()
    def copy(self) -> None:
        self.copied = self.store.copy(), self.ledger.copy()

    @precondition(lambda self: self.copied and not self.staged)
    @rule(by_hand=st.booleans())
    def restore(self, by_hand: bool) -> None:
        """Put an earlier copy back; then all get a new epoch, or the hub finds it out."""
        assert self.copied is not None
        store, ledger = self.copied
        self.store.restore(store)
        self.ledger.restore(ledger)
        found = set()
        for group in {group for browser in self.connected() for group in browser.groups}:
            head, stands = self.ledger[group].head, self.position(group)
            if stands.epoch == head.epoch and stands.offset > head.offset:
                found.add(group)
        # What no running process has seen can't be found out: that is what the command is for.
        renewed = set(GROUPS) if by_hand else set(GROUPS) - found
        self.process.log.renew_epoch(renewed)
        self.check()
        for group in GROUPS:
            self.ledger[group].renew()
        self.learn()

    @precondition(lambda self: self.may_write)
    @rule(hours=st.sampled_from([0, 13, 25, 49]))
    def prune(self, hours: int) -> None:
        if hours:
            # Nobody is behind for hours: messages expire, the heads are checked, and a stream that
            # takes nothing is ended.
            self.process.layer.held.clear()
            self.check()
            for browser in self.connected():
                if browser.lags:
                    self.process.run(browser.drop())
        self.clock.now += hours * HOUR
        self.ledger.prune(self.process.log)
        self.learn()

    @rule()
    def settle(self) -> None:
        """Nothing happens any more: everybody gets to the head."""
        for writer in list(self.staged):
            self.commit(writer)
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


@pytest.fixture(params=EXAMPLES)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Each kind of log in turn, with small bounds, and told of nothing by the database."""
    for module in app_modules():
        for name, value in BOUNDS.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(DatabaseEventLog, "watch", lambda self, changed: None)
    for alias in ("default", "postgresql"):
        # Channels closes what is old after each call; a new connection each time takes too long.
        monkeypatch.setitem(connections[alias].settings_dict, "CONN_MAX_AGE", None)
    monkeypatch.setattr(django_settings, "SSE_APP", {})
    if request.param == "memory":
        yield MemoryStore("sse_app.eventlog.MemoryEventLog")
    elif request.param == "redis":
        yield RedisStore(request.getfixturevalue("valkey"))
    else:
        yield DatabaseStore("default" if request.param == "sqlite" else "postgresql")
    asyncio.run(sync_to_async(connections.close_all)())  # on the thread that the hub works in
    monkeypatch.undo()
    app_settings.cache_clear()
    event_log.cache_clear()


@pytest.fixture
def writers(store: Store) -> Iterator[list[Writer]]:
    """As many transactions at a time as the database can have."""
    alias = store.alias or "default"
    writers = [Writer(alias) for _ in range(2 if alias == "postgresql" else 1)]
    yield writers
    for writer in writers:
        writer.close()


def test_every_client_gets_the_log_or_a_reset_first(
    store: Store, writers: list[Writer], request: pytest.FixtureRequest
) -> None:
    kind = request.node.callspec.params["store"]
    run_state_machine_as_test(
        lambda: Streams(store, writers),
        settings=settings(
            max_examples=FUZZ_EXAMPLES or EXAMPLES[kind],
            stateful_step_count=60 if FUZZ_EXAMPLES else 30,
            derandomize=not FUZZ_EXAMPLES,
            print_blob=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
