"""The whole way on PostgreSQL: several Daphne processes, the in-memory layer, the log between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from ..support.servers import Daphne, connect_postgresql, eventually


async def test_the_log_carries_events_between_processes_by_the_check(
    make_daphne: Callable[..., Daphne], database: str
) -> None:
    here = make_daphne({"TEST_POSTGRES_NAME": database})
    there = make_daphne({"TEST_POSTGRES_NAME": database})
    async with here.stream("group=orders") as one, there.stream("group=orders") as two:
        await one.next()
        await two.next()
        for n in range(20):
            here.publish("orders", "n", str(n))
        for stream in (one, two):
            assert [event.data for event in await stream.take(20)] == [str(n) for n in range(20)]


@pytest.mark.slow
async def test_idle_streams_hold_no_database_connection(
    make_daphne: Callable[..., Daphne], database: str
) -> None:
    daphne = make_daphne({"TEST_POSTGRES_NAME": database}, CHECK_INTERVAL=30, SWEEP_INTERVAL=30)

    def connections() -> int:
        with connect_postgresql("postgres") as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            row = connection.execute(query, [database]).fetchone()
            assert row is not None
            return int(row[0])

    # Those of the process itself, which writes its row.
    own = 2
    async with AsyncExitStack() as streams:
        for _ in range(10):
            for query in ("group=orders", "group=orders&group=chat.a", "group=clock"):
                stream = await streams.enter_async_context(daphne.stream(query))
                await stream.next()
        await asyncio.to_thread(eventually, lambda: connections() <= own, "a connection is held")
