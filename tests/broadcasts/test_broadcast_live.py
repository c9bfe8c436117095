"""Broadcasts over several real Daphne processes: sent once and in time, and counted to the last.

`BROADCAST_STREAMS=1000` is how many streams each process of the count has.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.staff import Staff, run

pytestmark = pytest.mark.slow

STREAMS = int(os.environ.get("BROADCAST_STREAMS", "150"))
FREE = {
    "STREAMS_PER_SESSION": None,
    "STREAMS_PER_USER": None,
    "STREAMS_PER_ANONYMOUS_ADDRESS": None,
    "STREAMS_PER_ADDRESS": None,
}
REDIS_LOG = "sse_app.eventlog.RedisEventLog"


def logged(site: Daphne, group: str) -> list[str]:
    """The data of the group's events in the log."""
    return list(
        run(
            site,
            "from sse_app.protocol.cursors import START\nfrom sse_app.eventlog import event_log\n"
            f"result = [e.data for e in event_log().since({group!r}, START, 1000)]",
        )
    )


# --- at its time ---


@pytest.mark.parametrize(
    "kind",
    ["sqlite", *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgresql", "redis"))],
)
async def test_three_processes_send_what_is_scheduled_once_and_not_before_its_time(
    make_daphne: Callable[..., Daphne], request: pytest.FixtureRequest, kind: str
) -> None:
    environ = None
    if kind == "postgresql":
        environ = {"TEST_POSTGRES_NAME": request.getfixturevalue("database")}
    if kind == "redis":
        environ = {"REDIS_URL": request.getfixturevalue("valkey"), "SSE_EVENT_LOG": REDIS_LOG}
    sites = [make_daphne(environ) for _ in range(3)]
    # By the second, as a person gives it; the parts of the second differ from each other.
    times = [datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=n) for n in (3, 4, 6, 7)]
    group = f"orders.{kind}.{time.time_ns()}"
    query = f"group=orders&group=chat.{group}"
    async with (
        sites[0].stream(query) as first,
        sites[1].stream(query) as second,
        sites[2].stream(query),
    ):
        for stream in (first, second):
            assert (await stream.next()).name == "sse.open"
        with Staff(sites[1]) as staff:
            for at in times:
                await asyncio.to_thread(
                    staff.broadcast, f"chat.{group}", f"{at.timestamp():.0f}", at
                )
        for at in times:
            event = await first.next()
            assert datetime.now(UTC) >= at
            assert event.data == f"{at.timestamp():.0f}"
            assert (await second.next()).data == event.data
        sites[0].publish(f"chat.{group}", "n", "last")
        for stream in (first, second):
            assert (await stream.next()).data == "last"
    expected = [f"{at.timestamp():.0f}" for at in times]
    assert logged(sites[2], f"chat.{group}") == [*expected, "last"]
    for site in sites:
        assert "ERROR" not in site.text()


def test_what_came_due_while_no_server_ran_is_sent_when_one_does(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne()
    with Staff(site) as staff:
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
        staff.broadcast("orders", "waited", at)
    site.stop()
    eventually(lambda: datetime.now(UTC) > at)
    site.start()

    async def listen() -> str:
        async with site.stream("group=orders&from=earliest") as stream:
            assert (await stream.next()).name == "sse.open"
            return (await stream.next()).data

    assert asyncio.run(listen()) == "waited"
    assert logged(site, "orders") == ["waited"]


# --- to how many ---


class Listener:
    """Many streams of one process, as cheap as they can be."""

    def __init__(self, port: int, query: str) -> None:
        self.port = port
        self.query = query
        self.got = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, count: int) -> None:
        """Open `count` more streams and return when all are open."""
        for start in range(0, count, 50):
            await asyncio.gather(*(self._open() for _ in range(min(50, count - start))))

    async def _open(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /events/?{self.query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"event: sse.open\n")
        self._writers.append(writer)
        self._tasks.append(asyncio.create_task(self._read(reader)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self.got += line == b"event: n\n"

    async def close(self) -> None:
        """Close all."""
        for writer in self._writers:
            writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def listening(site: Daphne, count: int, query: str) -> AsyncIterator[Listener]:
    listener = Listener(site.port, query)
    try:
        await listener.open(count)
        yield listener
    finally:
        await listener.close()


@pytest.mark.parametrize("log", ["sse_app.eventlog.DatabaseEventLog", REDIS_LOG])
async def test_the_count_over_two_processes_is_exact(
    make_daphne: Callable[..., Daphne], valkey: str, log: str
) -> None:
    environ = {"REDIS_URL": valkey, "SSE_EVENT_LOG": log}
    one, two = (make_daphne(environ, **FREE) for _ in range(2))
    orders, room = "group=orders", f"group=chat.{time.time_ns()}"
    both = f"{orders}&{room}"
    async with (
        listening(one, STREAMS, orders) as first,
        listening(two, STREAMS - 10, orders) as second,
        listening(two, 10, both) as twice,
        listening(one, 7, f"{orders}&event=other"),
        listening(one, 5, "group=clock"),
    ):
        with Staff(one) as staff:
            page = await asyncio.to_thread(staff.broadcast, "orders", "to all")
            found = re.search(r"At least (\d+) streams", page)
            assert found, re.findall(r"sse-listeners.*", page)
            # Of the other process by what it said last.
            assert STREAMS + 7 <= int(found[1]) <= 2 * STREAMS + 7
            name = room.removeprefix("group=")
            await asyncio.to_thread(staff.broadcast, f"orders {name}", "to some twice")
            expected = [str(2 * STREAMS + 10), str(2 * STREAMS)]
            await asyncio.to_thread(eventually, lambda: staff.delivered() == expected)
            got = first.got, second.got, twice.got
            assert got == (2 * STREAMS, 2 * (STREAMS - 10), 30)
            # It stays so when all have gone.
            await asyncio.gather(first.close(), second.close(), twice.close())
            await asyncio.to_thread(two.until_streams, 0)
            for site in (one, two):
                count = "from sse_app.broadcasts import sending; sending.count_deliveries()"
                await asyncio.to_thread(run, site, count)
            assert staff.delivered() == expected
    for site in (one, two):
        assert "ERROR" not in site.text()
