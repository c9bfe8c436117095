"""Presence over real server processes: tabs, restarts, `kill -9`, and what it may cost."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sse_app.conf import Settings
from sse_app.operations import processes
from sse_app.operations.reporter import TICK_SECONDS
from sse_app.presence import tracker

from ..support.servers import Daphne, Server, eventually
from ..support.sleepers import run
from ..support.visits import ROOM, Visit, cookie_of, members

pytestmark = pytest.mark.slow

EVENTS = """
from sse_app.models import StoredEvent
rows = StoredEvent.objects.filter(name__startswith="presence.").order_by("offset")
result = [[row.name.removeprefix("presence."), __import__("json").loads(row.data)["name"]]
          for row in rows]
"""
ALIVE = "from sse_app.operations import processes\nresult = [row.name for row in processes.alive()]"


def events(server: Server) -> Any:
    """Who joined and left so far, in order, whoever told it."""
    return run(server, EVENTS)


def rows(server: Server) -> int:
    code = "from sse_app.models import Presence\nresult = Presence.objects.count()"
    return int(run(server, code))


def hasten(server: Server) -> None:
    """Let those be dead who were not seen for three seconds, and those gone who don't return."""
    run(
        server,
        "from sse_app.presence import tracker; "
        "from sse_app.operations import processes; from sse_app.operations import reporter\n"
        "reporter.REPORT_SECONDS = 0.5\n"
        "processes.ALIVE_SECONDS = 3\n"
        "tracker.RECONNECT_SECONDS = 2",
    )


async def happens(check: Callable[[], object], what: str = "") -> None:
    await asyncio.to_thread(eventually, check, what)


@pytest.fixture
async def visit() -> Any:
    visit = Visit()
    yield visit
    await visit.leave()


async def test_many_tabs_on_two_processes_are_one_member_one_join_and_one_leave(
    make_daphne: Callable[..., Daphne], visit: Visit
) -> None:
    here, there = make_daphne(PRESENCE_GRACE=0.5), make_daphne(PRESENCE_GRACE=0.5)
    watcher = await visit.enter(there, {})
    ann = await asyncio.to_thread(cookie_of, here, "ann")
    for server in (here, here, there, there):
        await visit.enter(server, ann)
    await happens(lambda: rows(here) == 2, "both processes say so")
    assert members(here) == members(there) == ["ann"]
    joined = await watcher.next()
    assert (joined.name, joined.data) == ("presence.join", '{"user":"1","name":"ann"}')
    assert joined.id, "it is durable"
    await visit.leave(1, 2, 3)
    await happens(lambda: rows(here) == 1)
    bob = await asyncio.to_thread(cookie_of, here, "bob")
    await visit.enter(here, bob)
    assert (await watcher.next()).data == '{"user":"2","name":"bob"}', "ann has not left"
    await visit.leave(4)
    left = await watcher.next()
    assert (left.name, left.data) == ("presence.leave", '{"user":"1","name":"ann"}')
    assert members(here) == members(there) == ["bob"]
    assert events(there) == [["join", "ann"], ["join", "bob"], ["leave", "ann"]]


async def test_who_comes_back_in_time_has_not_left(
    make_daphne: Callable[..., Daphne], visit: Visit
) -> None:
    here, there = make_daphne(PRESENCE_GRACE=4), make_daphne(PRESENCE_GRACE=4)
    ann = await asyncio.to_thread(cookie_of, here, "ann")
    await visit.enter(here, ann)
    await happens(lambda: members(here) == ["ann"])
    await visit.leave(0)
    await happens(lambda: rows(here) == 0)
    await visit.enter(there, ann)
    await happens(lambda: rows(here) == 1)
    # Somebody who leaves later and for good tells that the time of the first is over.
    bob = await asyncio.to_thread(cookie_of, here, "bob")
    await visit.enter(here, bob)
    await happens(lambda: rows(here) == 2)
    await visit.leave(2)
    await happens(lambda: members(here) == ["ann"])
    assert events(here) == [["join", "ann"], ["join", "bob"], ["leave", "bob"]]


async def test_a_server_that_restarts_loses_nobody_who_comes_back(
    make_daphne: Callable[..., Daphne], visit: Visit
) -> None:
    server, other = make_daphne(), make_daphne()
    ann, bob = [await asyncio.to_thread(cookie_of, server, name) for name in ("ann", "bob")]
    await visit.enter(server, ann)
    await visit.enter(server, bob)
    await happens(lambda: members(other) == ["ann", "bob"])
    await asyncio.to_thread(hasten, other)
    await asyncio.to_thread(server.stop)
    await visit.enter(other, ann)
    await happens(lambda: members(other) == ["ann"], "bob did not come back")
    assert events(other) == [["join", "ann"], ["join", "bob"], ["leave", "bob"]]


async def test_who_was_with_a_killed_process_is_gone_once(
    make_daphne: Callable[..., Daphne], visit: Visit
) -> None:
    killed, *others = (make_daphne(), make_daphne(), make_daphne())
    users = [await asyncio.to_thread(cookie_of, killed, name) for name in ("ann", "bob", "cid")]
    for user in users:
        await visit.enter(killed, user)
    await visit.enter(others[0], users[0])
    await happens(lambda: rows(others[0]) == 4)
    for server in others:
        await asyncio.to_thread(hasten, server)
    await asyncio.to_thread(killed.stop, signal.SIGKILL)
    await happens(lambda: members(others[1]) == ["ann"])
    assert rows(others[1]) == 1
    told = events(others[0])
    assert sorted(told[3:]) == [["leave", "bob"], ["leave", "cid"]]
    assert len(told) == 5, "though both processes looked"


def test_the_ages_as_shipped_make_it_less_than_thirty_seconds() -> None:
    # A pass late to find it dead, and one late to find that it did not return.
    latest = processes.ALIVE_SECONDS + tracker.RECONNECT_SECONDS + 2 * TICK_SECONDS
    assert latest < 30
    assert Settings().RETRY[1] < Settings().PRESENCE_GRACE, "so a reconnection is no leave"


async def test_guests_and_other_groups_are_not_kept(
    make_daphne: Callable[..., Daphne], visit: Visit
) -> None:
    server = make_daphne()
    await visit.enter(server, {})
    ann = await asyncio.to_thread(cookie_of, server, "ann")
    bob = await asyncio.to_thread(cookie_of, server, "bob")
    await visit.enter(server, bob, "group=orders&group=clock")
    await visit.enter(server, ann, f"group=orders&group={ROOM}")
    await happens(lambda: members(server) == ["ann"])
    code = (
        "from sse_app.models import Presence\nresult = list(Presence.objects.values_list('group'))"
    )
    assert run(server, code) == [[ROOM]]


async def test_a_stream_that_loses_the_group_or_ends_takes_its_user_out(
    make_daphne: Callable[..., Daphne], visit: Visit
) -> None:
    server = make_daphne(PRESENCE_GRACE=0.2)
    ann, bob = [await asyncio.to_thread(cookie_of, server, name) for name in ("ann", "bob")]
    await visit.enter(server, ann, f"group=orders&group={ROOM}")
    await visit.enter(server, bob, f"group=orders&group={ROOM}")
    await happens(lambda: members(server) == ["ann", "bob"])
    code = "from sse_app import disconnect\ndisconnect(user='1', group={!r})"
    await asyncio.to_thread(run, server, code.format(ROOM))
    await happens(lambda: members(server) == ["bob"])
    assert server.streams() == 2, "it still listens to the other group"
    await asyncio.to_thread(run, server, "from sse_app import disconnect\ndisconnect(user='2')")
    await happens(lambda: members(server) == [])
    assert events(server)[2:] == [["leave", "ann"], ["leave", "bob"]]


async def test_a_process_that_was_taken_for_dead_says_again_who_is_there(
    make_daphne: Callable[..., Daphne], visit: Visit
) -> None:
    server = make_daphne()
    ann = await asyncio.to_thread(cookie_of, server, "ann")
    await visit.enter(server, ann)
    await happens(lambda: rows(server) == 1)
    run(
        server,
        "from sse_app.models import GroupMember, Presence\n"
        "from django.utils import timezone\n"
        "Presence.objects.all().delete()\n"
        "GroupMember.objects.filter(name='ann').update(leaves_at=timezone.now() + __import__("
        "'datetime').timedelta(seconds=300))",
    )
    await happens(lambda: rows(server) == 1)
    absent = "result = GroupMember.objects.filter(leaves_at__isnull=False).count()"
    code = f"from sse_app.models import GroupMember\n{absent}"
    await happens(lambda: run(server, code) == 0)
    assert events(server) == [["join", "ann"]]


HAMMER = """
import random, time
from django.contrib.auth.models import User
from django.db import OperationalError
from sse_app.presence import tracker; from sse_app.operations import processes
from sse_app.runtime.duties import DUTIES
DUTIES._due.clear()
draw = random.Random({seed})
for turn in range({turns} + 1):
    users = draw.sample(range(8), 4) if turn < {turns} else []
    with tracker._lock:
        tracker._users.clear()
        named = {{({room!r}, str(user)): User(username=f"u{{user}}") for user in users}}
        tracker._users.update(named)
    tracker.keep({{process.name for process in processes.alive()}})
"""
KEEP = """
from sse_app.presence import tracker; from sse_app.operations import processes
tracker.keep({process.name for process in processes.alive()})
"""


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_processes_that_write_at_the_same_time_tell_each_join_and_leave_once(
    make_daphne: Callable[..., Daphne], kind: str, request: pytest.FixtureRequest
) -> None:
    environ = None
    if kind == "postgresql":
        environ = {"TEST_POSTGRES_NAME": request.getfixturevalue("database")}
    servers = [make_daphne(environ, PRESENCE_GRACE=0.001) for _ in range(3)]
    for server in servers:
        await happens(lambda server=server: len(run(server, ALIVE)) == 3)  # type: ignore[misc]
    codes = [HAMMER.format(seed=seed, turns=40, room=ROOM) for seed in range(3)]
    await asyncio.gather(*map(partial(asyncio.to_thread, run), servers, codes))
    await asyncio.to_thread(run, servers[0], KEEP)
    assert members(servers[0]) == []
    told: dict[str, list[str]] = {}
    for what, name in events(servers[0]):
        told.setdefault(name, []).append(what)
    assert len(told) == 8
    for name, said in told.items():
        assert said == ["join", "leave"] * (len(said) // 2), name
