"""What an idle process asks the database, counted while its clock runs a minute in a moment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest

from sse_app.delivery.hub import get_hub
from sse_app.eventlog import database_sqlite
from sse_app.publishing import outbox

from ..support.servers import Daphne, eventually
from ..support.sleepers import connect, run

#: An idle process asks less than once in so many seconds.
PAUSE = 5
SECONDS = 300

#: `travel(seconds)` moves the clocks second by second. After each of them the timers that are due
#: fire, and all calls in threads end.
TRAVEL = """
import asyncio, sys, threading, time
from django.db.backends.utils import CursorWrapper
from sse_app.operations import processes
from sse_app.runtime import threads

real, offset, asked = time.monotonic, [0.0], []
time.monotonic = lambda: real() + offset[0]
execute = CursorWrapper._execute
def counted(self, sql, params, *ignored):
    asked.append(sql[:120])
    return execute(self, sql, params, *ignored)
CursorWrapper._execute = counted

loop = processes.reporter.loop

def is_busy():
    own = [one for one in threads._all for call in one._running]
    return bool(own)

def turn():
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(60)

def travel(seconds):
    for _ in range(seconds):
        offset[0] += 1.0
        for _ in range(5):
            turn()
            while is_busy():
                time.sleep(0.001)
processes.travel, processes.asked = travel, asked
result = None
"""
RUN = """
from sse_app.operations import processes
processes.travel(70)  # The duties and checks after the start.
processes.asked.clear()
processes.travel({seconds})
result = list(processes.asked)
"""


@pytest.mark.parametrize("streams", [0, 20])
def test_an_idle_process_asks_the_database_less_than_once_in_five_seconds(
    make_daphne: Callable[..., Daphne], streams: int
) -> None:
    server = make_daphne(PRESENCE_GROUPS=["chat.*"])
    with ExitStack() as stack:
        for _ in range(streams):
            stack.enter_context(connect(server))
        run(server, TRAVEL)
        asked = Counter(run(server, RUN.format(seconds=SECONDS)))
    told = json.dumps(asked.most_common(), indent=1)
    assert 0 < asked.total() < SECONDS / PAUSE, told


WOKEN = "from sse_app.runtime.duties import DUTIES\nresult = DUTIES.wakes"
SCHEDULE = """
from datetime import timedelta
from django.utils import timezone
from sse_app.models import Broadcast
Broadcast.objects.create(groups=["orders"], body="1", send_at=timezone.now() + timedelta(days=9))
"""
LOOK = "from sse_app.operations import processes\nprocesses.watch(2)"


@pytest.mark.parametrize("change", [SCHEDULE, LOOK], ids=["a broadcast", "a dashboard"])
def test_a_change_in_one_process_wakes_the_duties_of_the_others(
    make_daphne: Callable[..., Daphne], change: str
) -> None:
    server, other = make_daphne(), make_daphne()
    with connect(other):
        rows = "from sse_app.models import ServerProcess\nresult = ServerProcess.objects.count()"
        eventually(lambda: run(server, rows) == 2)
        before = run(other, WOKEN)
        run(server, change)
        eventually(lambda: run(other, WOKEN) > before)


async def test_a_watched_log_is_checked_until_each_topic_had_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub, checks = get_hub(), []

    async def check() -> None:
        checks.append(True)

    monkeypatch.setattr(hub, "check", check)
    monkeypatch.setattr(hub, "_stop_watch", lambda: None)
    monkeypatch.setattr(hub, "_net_at", inf)
    hub._changed.clear()
    hub._healer._whole = False
    for settled, expected in ((False, 1), (True, 1), (False, 2)):
        hub._healer._unturned = 0 if settled else 1
        await hub._check_unless_watched()
        assert len(checks) == expected
    hub._healer._unturned = 0
    for changed, expected in ((True, 3), (False, 3)):
        (hub._changed.set if changed else hub._changed.clear)()
        await hub._check_unless_watched()
        assert len(checks) == expected
    monkeypatch.setattr(hub, "_net_at", 0.0)
    await hub._check_unless_watched()
    assert len(checks) == 4, "a thread that hangs notices nothing"
    monkeypatch.setattr(hub, "_stop_watch", None)
    for _ in range(3):
        await hub._check_unless_watched()
    assert len(checks) == 7, "a log that can't notice appends"
    await hub.close()


async def test_after_a_change_of_the_file_events_are_swept_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweeps = []

    class Log:
        async def anumber(self) -> list[object]:
            sweeps.append(True)
            return []

    hub = SimpleNamespace(changes=1)
    monkeypatch.setattr(outbox, "event_log", Log)
    monkeypatch.setattr(outbox, "_hub_outboxes", [])
    service = outbox.HubOutbox()
    await service.start(hub)
    for _ in range(3):
        await service._sweep()
    assert len(sweeps) == 1
    hub.changes = 2
    await service._sweep()
    await service._sweep()
    assert len(sweeps) == 2
    hub.changes = None
    await service._sweep()
    await service._sweep()
    assert len(sweeps) == 4


def test_a_file_that_cannot_be_watched_counts_as_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_sqlite, "RETRY_SECONDS", 0.001)
    calls: list[bool] = []
    stop = database_sqlite.watch_file(tmp_path / "missing.sqlite3", lambda: calls.append(True))
    eventually(lambda: len(calls) > 3)
    stop()
