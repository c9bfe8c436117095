"""What a check of the heads costs: as many heads as changed, and a share of the idle ones."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Collection
from types import SimpleNamespace
from typing import Any, Final

import pytest

from sse_app.delivery import healing
from sse_app.delivery.healing import FEWEST, RECENT, ROUND_SECONDS
from sse_app.delivery.hub import get_hub
from sse_app.eventlog import DatabaseEventLog, EventLog, event_log, redis_clients
from sse_app.eventlog.contract import Changes
from sse_app.eventlog.database_rows import Tables
from sse_app.protocol.cursors import Position
from sse_app.protocol.events import Event
from sse_app.protocol.groups import CONTROL_GROUP

from ..support.patience import PATIENCE
from ..support.subscribers import Reader

GROUPS: Final = [f"g{n}" for n in range(2000)]

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])


@pytest.fixture(params=["memory", "sqlite", "postgresql", "redis", "cluster"])
def kind(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each log in turn; the checks are those of the test."""
    # The watch of SQLite's file looks for the first time when the machine has time for it.
    monkeypatch.setattr(DatabaseEventLog, "watch", EventLog.watch)
    log: Any = {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": request.param}
    if request.param == "memory":
        log = "sse_app.eventlog.MemoryEventLog"
    elif request.param == "sqlite":
        log["ALIAS"] = "default"
    elif request.param in ("redis", "cluster"):
        is_cluster = request.param == "cluster"
        log = {
            "BACKEND": "sse_app.eventlog.RedisEventLog",
            "URL": request.getfixturevalue("valkey_cluster" if is_cluster else "valkey"),
            "PREFIX": f"test.{uuid.uuid4().hex}",
            "CLUSTER": is_cluster,
        }
    settings.SSE_APP = {"EVENT_LOG": log, "CHECK_INTERVAL": 600, "SWEEP_INTERVAL": 600}
    return str(request.param)


class Asked:
    """The groups that each call of the log was asked for, and the heads that it read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[list[str]] = []
        self.found: list[dict[str, Position] | None] = []
        self.failing = 0
        kind = type(event_log())
        changes, heads = kind.achanges, kind.aheads

        async def counted_changes(
            log: EventLog, since: object, groups: Collection[str], also: Collection[str] = ()
        ) -> Changes:
            self.calls.append(list(also))
            if self.failing:
                self.failing -= 1
                raise ConnectionError("the log is away")
            found = await changes(log, since, groups, also)
            self.found.append(found.heads)
            return found

        async def counted_heads(log: EventLog, groups: Collection[str]) -> dict[str, Position]:
            self.calls.append(list(groups))
            found = await heads(log, groups)
            self.found.append(found)
            return found

        monkeypatch.setattr(kind, "achanges", counted_changes)
        monkeypatch.setattr(kind, "aheads", counted_heads)

    def of_last(self) -> list[str]:
        """Return all groups that were asked for since the last call."""
        calls, self.calls = self.calls, []
        self.found.clear()
        return [group for call in calls for group in call]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time of the healers, which stands still."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(healing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


async def idle(monkeypatch: pytest.MonkeyPatch, count: int = 2000) -> tuple[Reader, Asked]:
    """Return a reader of many groups after the checks of its start, and what is asked from then."""
    reader = await Reader().start(*GROUPS[:count])
    await reader.hub.check_all()
    return reader, Asked(monkeypatch)


async def grown_until(reader: Reader, fact: Callable[[], bool]) -> None:
    """Return when `fact`, about what the reader got, is true."""
    while not fact():
        reader.sink.grown.clear()
        await asyncio.wait_for(reader.sink.grown.wait(), PATIENCE)


async def seen(reader: Reader, *data: str) -> None:
    """Return when the reader got these events, in any order."""
    await grown_until(reader, lambda: sorted(reader.sink.seen) == sorted(data))


async def append(*groups: str) -> None:
    """Append events that the layer does not bring."""
    await event_log().aappend([Event.of(group, "n", group) for group in groups])


@pytest.mark.usefixtures("clock")
async def test_a_check_of_many_idle_groups_reads_few_heads_by_one_call(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, asked = await idle(monkeypatch)
    sent = count_commands(monkeypatch, kind)
    await reader.hub.check()
    assert len(asked.calls) == 1
    assert len(asked.calls[0]) <= FEWEST + RECENT
    assert asked.found[0] is not None
    assert len(asked.found[0]) <= FEWEST + RECENT
    assert sent() <= {"memory": 0, "sqlite": 1, "postgresql": 1}.get(kind, FEWEST + RECENT + 20)
    await append("g7", "g1999", "of.nobody")
    asked.of_last()
    await reader.hub.check()
    await seen(reader, "g7", "g1999")
    assert len(asked.calls[0]) <= FEWEST + RECENT
    # The first events of their groups, whose logs have an epoch now: no log went back.
    asked.of_last()
    await reader.hub.check()
    assert len(asked.calls) == 1
    await reader.stop()


def count_commands(monkeypatch: pytest.MonkeyPatch, kind: str) -> Callable[[], int]:
    """Return a function that returns how many statements or commands were sent from now on."""
    sent = 0
    rows, filled = Tables.rows, redis_clients.RedisClients._filled

    def counted_rows(self: Any, *args: Any) -> Any:
        nonlocal sent
        sent += 1
        return rows(self, *args)

    def counted_commands(self: Any, client: Any, commands: Any, *args: Any) -> Any:
        nonlocal sent
        commands = list(commands)
        sent += len(commands)
        return filled(self, client, commands, *args)

    monkeypatch.setattr(Tables, "rows", counted_rows)
    monkeypatch.setattr(redis_clients.RedisClients, "_filled", counted_commands)
    return lambda: sent


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.usefixtures("kind")
async def test_the_checks_of_a_round_compare_each_group_once(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    reader, asked = await idle(monkeypatch)
    compared: list[str] = []
    checks = 30
    for n in range(checks):
        clock.now += ROUND_SECONDS / checks
        await reader.hub.check()
        some = asked.of_last()
        assert len(some) <= 2000 / checks + 2
        compared += some
        if n == 10:  # Groups that come and go disturb no other group's turn.
            other = await Reader().start("other")
            asked.of_last()
        if n == 20:
            await other.stop()
    assert set(compared) >= set(GROUPS)
    assert len(compared) <= 2000 + checks
    clock.now += 2 * ROUND_SECONDS  # After a long time, each group has one turn.
    await reader.hub.check()
    assert sorted({*asked.of_last()} - {CONTROL_GROUP}) == sorted(GROUPS)
    await reader.stop()


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.usefixtures("kind")
async def test_a_head_that_the_log_did_not_note_is_found_within_a_round(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    """As for an event of a process of an older version of the app."""
    reader, _ = await idle(monkeypatch)
    log: Any = event_log()
    monkeypatch.setattr(type(log), "_note_change", lambda self, group: None)
    await append("g999")
    for _ in range(30):
        clock.now += ROUND_SECONDS / 30
        await reader.hub.check()
    await reader.sink.until("g999")
    await reader.stop()


@pytest.mark.usefixtures("clock")
async def test_a_commit_is_followed_by_a_read_of_what_it_changed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, asked = await idle(monkeypatch)
    await append("g5")
    asked.of_last()
    get_hub()._on_log_changed()
    await reader.sink.until("g5")
    assert asked.calls[0] == []
    assert asked.found[0] is not None
    assert set(asked.found[0]) == {"g5"}
    await reader.stop()


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.usefixtures("kind", "clock")
async def test_after_a_failed_check_all_heads_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, asked = await idle(monkeypatch)
    asked.failing = 1
    with pytest.raises(ConnectionError):
        await reader.hub.check()
    asked.of_last()
    await reader.hub.check()
    assert set(asked.of_last()) >= set(GROUPS)
    await reader.hub.check()
    assert len(asked.of_last()) <= FEWEST + RECENT
    await reader.hub.mailbox._reopened()
    assert set(asked.of_last()) >= set(GROUPS)
    await reader.stop()


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.usefixtures("kind", "clock")
@pytest.mark.parametrize("grown", [0, 2], ids=["went back", "and grew again"])
async def test_a_log_that_went_back_is_found_by_the_groups_that_were_delivered_to_last(
    grown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next check compares all heads, also of groups whose turn is far."""
    reader, asked = await idle(monkeypatch)
    log: Any = event_log()
    for _ in range(2):
        await append("g1500", "g1600")
        await reader.hub.check()
    await seen(reader, "g1500", "g1500", "g1600", "g1600")
    await reader.hub.check()
    await turn_to_others(reader)
    for group in ("g1500", "g1600"):
        kept = log._logs[group]
        kept.events.pop()
        kept.head, kept.mark = 1, kept.events[-1][1].mark
    reader.hub._healer._recent.pop("g1600")
    await append(*["g1500"] * grown)
    await reader.hub.check()
    await grown_until(reader, lambda: ("g1500", "epoch") in reader.sink.notices)
    asked.of_last()
    await reader.hub.check()
    assert set(asked.of_last()) >= set(GROUPS)
    await grown_until(reader, lambda: ("g1600", "epoch") in reader.sink.notices)
    await reader.stop()


async def turn_to_others(reader: Reader) -> None:
    """Make the two groups of the test the last ones to have their turn."""
    for group in ("g1500", "g1600"):
        reader.hub.topics.move_to_end(group)


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.usefixtures("kind", "clock")
async def test_a_change_while_a_group_starts_is_found_by_the_next_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first position is of before the change, and set after a check that saw the change."""
    reader, _ = await idle(monkeypatch)
    topic = reader.hub.topics["g1000"]
    reader.hub.topics.move_to_end("g1000")
    before, topic.position = topic.position, None
    await append("g1000")
    await reader.hub.check()
    topic.start(before or Position("", 0))
    assert reader.sink.seen == []
    await reader.hub.check()
    await reader.sink.until("g1000")
    await reader.stop()


def test_heads_of_more_groups_than_a_statement_has_variables() -> None:
    names = [f"name.{n}" for n in range(300_000)]
    assert len(DatabaseEventLog("default").heads(names)) == len(names)
