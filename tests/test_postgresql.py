"""The whole way on PostgreSQL: several Daphne processes, the in-memory layer, the log between."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest

from .conftest import Daphne, eventually


def _connect(name: str) -> psycopg.Connection:
    return psycopg.connect(
        dbname=name,
        host=os.environ["TEST_POSTGRES_HOST"],
        port=os.environ["TEST_POSTGRES_PORT"],
        user=os.environ["TEST_POSTGRES_USER"],
        autocommit=True,
    )


@pytest.fixture
def database() -> Iterator[str]:
    """The name of an empty PostgreSQL database."""
    name = f"sse_{uuid.uuid4().hex[:8]}"
    with _connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]


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


async def test_idle_streams_hold_no_database_connection(
    make_daphne: Callable[..., Daphne], database: str
) -> None:
    daphne = make_daphne({"TEST_POSTGRES_NAME": database}, CHECK_INTERVAL=30, SWEEP_INTERVAL=30)

    def connections() -> int:
        with _connect("postgres") as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            row = connection.execute(query, [database]).fetchone()
            assert row is not None
            return int(row[0])

    async with (
        daphne.stream("group=orders") as one,
        daphne.stream("group=orders&group=chat.a") as two,
        daphne.stream("group=clock") as three,
    ):
        for stream in (one, two, three):
            await stream.next()
        await asyncio.to_thread(eventually, lambda: connections() == 0, "a connection is held")
