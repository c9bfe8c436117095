"""The rows of the server processes: what they say, who keeps them, and when they are gone."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone

from sse_app.access.admission import Access
from sse_app.asgi import guard
from sse_app.broadcasts import sending
from sse_app.conf import site_tag
from sse_app.delivery.hub import get_hub
from sse_app.models import ServerProcess
from sse_app.operations import processes, reporter, reports
from sse_app.presence import tracker
from sse_app.runtime.duties import DUTIES
from sse_app.runtime.telemetry import process_name

from ..selection import first_then_slow
from ..support.other_servers import KINDS, documented
from ..support.patience import PATIENCE
from ..support.readers import new_stream
from ..support.servers import Daphne, Server, eventually
from ..support.sleepers import connect, run

ROWS = """
from sse_app.models import ServerProcess
result = [
    [row.name, row.pid, row.report, row.all_streams()] for row in ServerProcess.objects.all()
]
"""
#: Counts the ticks, which a test can then wait for.
COUNTED = """
from sse_app.operations import reporter
kept, counted = reporter.Reporter._write_row, []
def keep(self, *given):
    counted.append(given)
    return kept(self, *given)
reporter.Reporter._write_row, reporter.counted = keep, counted
"""


def rows(server: Server) -> dict[int, tuple[str, Any, Any]]:
    """The name, report and streams of each process."""
    return {pid: (name, said, streams) for name, pid, said, streams in run(server, ROWS)}


def pid_of(server: Server) -> int:
    return int(run(server, "import os\nresult = os.getpid()"))


def watch(server: Server) -> None:
    run(server, "from sse_app.operations import processes\nprocesses.watch(20)")


def said(server: Server, check: Callable[[Any], object], by: Server | None = None) -> Any:
    """What the process says in the words of `by`, once it is as `check` wants it."""
    pid = pid_of(server)

    def found() -> Any:
        _, report, _ = rows(by or server).get(pid, ("", None, None))
        return report and check(report) and report

    return eventually(found, f"{rows(server)}")


def streams_of(server: Server, check: Callable[[Any], object]) -> Any:
    pid = pid_of(server)

    def found() -> Any:
        _, _, streams = rows(server).get(pid, ("", None, {}))
        return streams and check(streams) and streams

    return eventually(found, f"{rows(server)}")


# --- what they say ---


async def test_a_process_says_how_it_is(daphne: Daphne) -> None:
    began = time.time()
    async with daphne.stream("group=orders&group=chat.a") as stream:
        await stream.next()
        await asyncio.to_thread(daphne.publish, "orders", "n", "1")
        await stream.next()
        await asyncio.to_thread(watch, daphne)
        report = await asyncio.to_thread(said, daphne, lambda report: report["open"]["live"])
    assert began <= report.pop("at") <= time.time()
    assert report.pop("server").startswith("daphne 4.")
    assert report["health"].pop("loop_lag") >= 0
    assert isinstance(report.pop("listed_for"), str), "it tells a look from the one before"
    counts = report.pop("counts")
    assert counts["delivered"] == 1
    assert counts["bytes"] > 100
    assert report == {
        "site": site_tag(),
        "health": {
            "hub": True,
            "layer": "ok",
            "log": "ok",
            "limits_shared": None,
            "draining": False,
            "delay": 0.0,
        },
        "open": {"live": 1, "catching up": 0, "lagging": 0, "held": 0},
        "waiting": {"bytes": 0, "events": 0},
        "groups": {
            "orders": {"subscribers": 1, "published": 1, "delivered": 1},
            "chat.a": {"subscribers": 1, "published": 0, "delivered": 0},
        },
    }


@pytest.mark.slow
async def test_streams_are_listed_while_somebody_watches_and_those_that_ended(
    daphne: Daphne,
) -> None:
    began = time.time()
    daphne.publish("orders", "n", "before")
    assert streams_of(daphne, bool) == {"open": [], "ended": []}
    await asyncio.to_thread(watch, daphne)
    async with daphne.stream("group=orders&event=n&event=a") as stream:
        opened = await stream.next()
        daphne.publish("orders", "n", "1")
        last = await stream.next()
        listed = await asyncio.to_thread(
            streams_of,
            daphne,
            # A heartbeat may be waiting for the end of the loop's iteration.
            lambda streams: [row for row in streams["open"] if row["bytes"] and not row["queue"]],
        )
    (row,) = listed["open"]
    epoch = opened.id.split("-")[1]
    assert len(row.pop("id")) == 12
    assert row.pop("bytes") > len(last.data)
    assert began <= row.pop("opened_at") <= time.time()
    assert row == {
        "user": "",
        "user_key": "",
        "address": "127.0.0.1",
        "groups": ["orders"],
        "events": ["a", "n"],
        "state": "live",
        "queue": 0,
        "lag": 0,
        "opened": {"orders": f"{epoch}-1"},
        "positions": {"orders": f"{epoch}-2"},
        "resets": {},
        "taken": [],
        "closed_at": None,
        "reason": "",
    }
    ended = await asyncio.to_thread(streams_of, daphne, lambda streams: streams["ended"])
    assert ended["open"] == []
    (row,) = ended["ended"]
    assert (row["state"], row["reason"]) == ("closed", "disconnect")
    assert row["closed_at"] >= row["opened_at"]


def test_a_stream_that_does_not_read_is_seen_to_lag(daphne: Daphne) -> None:
    sleeper = connect(daphne)
    run(
        daphne,
        "from sse_app import publish_many\n"
        "for _ in range(20):\n"
        "    publish_many([('orders', 'n', 'x' * 50_000)] * 10)\n",
    )
    watch(daphne)
    report = said(daphne, lambda report: report["open"]["lagging"] == 1)
    assert report["waiting"]["bytes"] > 0
    assert report["waiting"]["events"] > 0
    (row,) = streams_of(daphne, lambda streams: streams["open"])["open"]
    assert row["state"] == "lagging"
    assert row["queue"] > 0
    assert 0 < row["lag"] < 200
    sleeper.close()


async def test_a_list_of_streams_holds_nothing_that_opens_one(
    daphne: Daphne,
) -> None:
    cookies = run(
        daphne,
        "from django.contrib.auth.models import User\n"
        "from django.contrib.sessions.backends.db import SessionStore\n"
        "from sse_app.access.grants import Grant\n"
        "user = User.objects.create_user('ann', password='secret')\n"
        "session = SessionStore()\n"
        "session['_auth_user_id'] = str(user.pk)\n"
        "session['_auth_user_backend'] = 'django.contrib.auth.backends.ModelBackend'\n"
        "session['_auth_user_hash'] = user.get_session_auth_hash()\n"
        "session.save()\n"
        "result = [session.session_key, Grant.to(user, ['secret.group']).sign()]\n",
    )
    key, grant = cookies
    await asyncio.to_thread(watch, daphne)
    headers = {"Cookie": f"sessionid={key}"}
    async with daphne.stream(f"grant={grant}", headers) as stream:
        assert (await stream.next()).name == "sse.open"
        listed = await asyncio.to_thread(streams_of, daphne, lambda streams: streams["open"])
    (row,) = listed["open"]
    assert (row["user"], row["user_key"], row["groups"]) == ("ann", "1", ["secret.group"])
    assert key not in str(listed)
    assert grant not in str(listed)


@pytest.mark.slow
async def test_lists_are_given_up_when_nobody_watches_any_more(daphne: Daphne) -> None:
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        run(daphne, "from sse_app.operations import processes\nprocesses.watch(2)")
        await asyncio.to_thread(streams_of, daphne, lambda streams: streams["open"])
        await asyncio.to_thread(streams_of, daphne, lambda streams: not streams["open"])


# --- when they are there ---


@pytest.mark.parametrize("kind", first_then_slow([Daphne, *KINDS]), ids=lambda kind: kind.module)
def test_every_server_has_a_row_while_it_runs(
    make_server: Callable[..., Server], kind: type[Server]
) -> None:
    watcher = make_server(Daphne)
    options = [] if kind is Daphne else documented(kind)
    server = make_server(kind, options=options)
    report = said(server, bool, by=watcher)
    assert report["server"].startswith(f"{kind.module} ")
    server.stop()
    assert rows(watcher).keys() == {pid_of(watcher)}


@pytest.mark.slow
def test_a_process_that_was_killed_is_gone_when_its_age_says_so(
    make_daphne: Callable[..., Daphne],
) -> None:
    watcher, killed = make_daphne(), make_daphne()
    pid = pid_of(killed)
    said(killed, bool, by=watcher)
    killed.stop(signal.SIGKILL)
    alive = (
        "from sse_app.operations import processes\nresult = [row.pid for row in processes.alive()]"
    )
    assert pid in run(watcher, alive), "it was seen a moment ago"
    run(watcher, "from sse_app.operations import processes\nprocesses.ALIVE_SECONDS = 2")
    eventually(lambda: pid not in run(watcher, alive))
    assert pid in rows(watcher)
    run(
        watcher,
        "from sse_app.operations import processes; from sse_app.operations import reporter\n"
        "reporter.DELETE_SECONDS = reporter.SWEEP_SECONDS = 1\n"
        "processes.reporter._swept = 0",
    )
    eventually(lambda: pid not in rows(watcher))
    eventually(lambda: pid_of(watcher) in rows(watcher), "its own row it makes again")


@pytest.mark.slow
async def test_listeners_are_counted_over_all_processes(
    make_daphne: Callable[..., Daphne],
) -> None:
    one, two = make_daphne(), make_daphne()
    ask = (
        "from sse_app.operations import processes\n"
        "result = processes.listeners(['orders', 'chat.a'])"
    )
    streams = []
    async with AsyncExitStack() as stack:
        for server, query in (
            (one, "group=orders"),
            (two, "group=orders&group=chat.a"),
            (two, "group=chat.b"),
        ):
            stream = await stack.enter_async_context(server.stream(query))
            await stream.next()
            streams.append(stream)
        assert await asyncio.to_thread(run, two, ask) >= 2, "its own are counted at once"
        for server in (one, two):
            await asyncio.to_thread(eventually, lambda s=server: run(s, ask) == 3)
        printed = await asyncio.to_thread(one.shell, ask + "\nprint(result)")
        assert printed.split() == ["3"], "a command serves nothing and knows as much"


@pytest.mark.slow
def test_while_somebody_watches_the_others_report_with_each_tick(
    make_daphne: Callable[..., Daphne],
) -> None:
    watcher, other = make_daphne(), make_daphne()
    run(other, COUNTED)
    reported = "from sse_app.operations import reporter\nresult = [1 for _ in reporter.counted]"
    assert len(run(other, reported)) <= 2, "it reports without need"
    watch(watcher)
    eventually(lambda: len(run(other, reported)) >= 4, "not with each tick")


# --- what can go wrong ---


@pytest.mark.slow
def test_a_missing_table_is_told_once_and_harms_nobody(daphne: Daphne) -> None:
    run(daphne, COUNTED)
    said(daphne, bool)
    run(
        daphne,
        "from django.db import connection\n"
        "connection.cursor().execute('ALTER TABLE sse_app_serverprocess RENAME TO away')\n"
        "from sse_app.operations import reporter\n"
        "reporter.counted.clear()",
    )
    ticks = "from sse_app.operations import reporter\nresult = len(reporter.counted)"
    eventually(lambda: run(daphne, ticks) > 3)
    assert daphne.text().count("The row of this server process can't be written") == 1
    run(
        daphne,
        "from django.db import connection\n"
        "connection.cursor().execute('ALTER TABLE away RENAME TO sse_app_serverprocess')",
    )
    began = time.time()
    said(daphne, lambda report: report["at"] > began)
    daphne.stop()


@pytest.fixture
def _no_reporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "reporter", None)


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def ask() -> None:
    async def send(message: Any) -> None:
        """Nobody reads it."""

    scope = {"type": "http", "path": "/", "headers": [], "query_string": b""}
    await guard(answer, busy=False)(scope, None, send)


@pytest.mark.usefixtures("_no_reporter")
def test_a_loop_that_is_closed_without_a_word_leaves_nothing_that_complains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = set()
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask())
        found = processes.reporter
        assert found is not None
        assert found.loop is loop, "each loop has its own"
        names.add(found.name)
        assert asyncio.all_tasks(loop) == set()
        loop.close()
    gc.collect()
    DUTIES.wake()
    found.retire()
    assert not found.is_retiring, "nobody must wait for a loop that is closed"
    assert caplog.records == []
    assert names == {process_name()}


@pytest.mark.usefixtures("_no_reporter")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
async def test_what_is_told_to_come_soon_comes_at_once_and_a_duty_that_fails_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    count = others = 0

    def other() -> None:
        nonlocal others
        others += 1
        loop.call_soon_threadsafe(done.set)

    def due() -> None:
        nonlocal count
        count += 1
        if count < 3:
            raise error("on purpose")

    monkeypatch.setattr(DUTIES, "_due", {due: 0.0, other: 0.0})
    for name in ("TICK_SECONDS", "ALONE_SECONDS"):
        monkeypatch.setattr(reporter, name, 1000.0)
    await ask()
    found = processes.reporter
    assert found is not None
    for expected in range(1, 5):
        done.clear()
        DUTIES.wake()
        await asyncio.wait_for(done.wait(), PATIENCE)
        assert count == others == expected
    said = [record.getMessage() for record in caplog.records if "on purpose" in record.getMessage()]
    assert len(said) == 1
    assert await asyncio.to_thread(lambda: len(processes.alive())) == 1
    found.retire()
    assert found.is_retiring
    await asyncio.to_thread(eventually, lambda: not found.is_retiring)
    assert await asyncio.to_thread(processes.alive) == []


@pytest.mark.usefixtures("_no_reporter")
async def test_nothing_of_the_first_request_stays_with_the_reporter() -> None:
    from contextvars import ContextVar, copy_context

    of_the_request: ContextVar[str] = ContextVar("of_the_request", default="")

    async def first() -> None:
        of_the_request.set("secret")
        await ask()

    await asyncio.create_task(first(), context=copy_context())
    found = processes.reporter
    assert found is not None
    seen = asyncio.Event()
    inside = []

    async def tick() -> None:
        inside.append(of_the_request.get())
        seen.set()

    found._tick = tick  # type: ignore[method-assign]
    DUTIES.wake()
    await asyncio.wait_for(seen.wait(), PATIENCE)
    assert inside == [""]


def test_a_forked_child_is_another_process() -> None:
    own = process_name()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, process_name().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    other = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert len(other) == len(own)
    assert other != own
    assert process_name() == own


def test_the_duties_of_a_process_are_registered_once() -> None:
    apps.get_app_config("sse_app").ready()
    expected = [sending.send_due, sending.count_deliveries, tracker.keep_presence]
    assert DUTIES.registered == expected


@pytest.mark.django_db
def test_watching_never_shortens_what_another_asked_for() -> None:
    now = timezone.now()
    row = ServerProcess.objects.create(name="a", host="h", pid=1, started_at=now, seen_at=now)
    processes.watch(100)
    processes.watch(10)
    row.refresh_from_db()
    assert row.watched_until is not None
    assert row.watched_until > now + timedelta(seconds=90)


async def test_a_list_of_thousands_lets_the_loop_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = get_hub()
    for _ in range(5000):
        stream = new_stream(hub, Access(AnonymousUser(), ("g",)))
        stream.opened = "1.aaaaaaaa-bbbb-1"
        hub.subscriptions.add(stream.subscription)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    listed = await reports.rows()
    turning.cancel()
    assert len(listed["open"]) == 5000
    assert turns >= 5000 / reports.SLICE
    await hub.close()
