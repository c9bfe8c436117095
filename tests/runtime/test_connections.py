"""The connections that threads keep between their calls, and the ones that they replace."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction

from sse_app.runtime import connections as kept
from sse_app.runtime import threads as own_threads
from sse_app.runtime.threads import NAME, Threads

from ..support.servers import connect_postgresql, eventually

ALIASES = ["default", "postgresql"]
NEVER = 600

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=ALIASES),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _no_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep connections as a server does; the threads end when they have no call."""
    monkeypatch.setattr(own_threads, "is_testing", lambda: False)
    monkeypatch.setattr(own_threads, "IDLE_SECONDS", 0.0)
    before = set(threading.enumerate())
    yield
    eventually(lambda: not [t for t in {*threading.enumerate()} - before if t.name == NAME])


async def in_one_thread(*functions: Callable[[], Any]) -> list[Any]:
    """Call the functions one after the other in one thread, which has no pause between them."""
    threads, held = Threads(1), threading.Event()
    calls = [asyncio.create_task(threads.call(None, NEVER, held.wait))]
    calls += [asyncio.create_task(threads.call(None, NEVER, one)) for one in functions]
    await asyncio.sleep(0)
    held.set()
    return (await asyncio.gather(*calls))[1:]


def used(alias: str) -> Callable[[], Any]:
    def use() -> Any:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
        return connections[alias].connection

    return use


@pytest.mark.parametrize("alias", ALIASES)
async def test_a_thread_keeps_its_connection_without_a_maximum_age(alias: str) -> None:
    assert connections[alias].settings_dict["CONN_MAX_AGE"] == 0, "Django's default"
    assert len(set(await in_one_thread(*[used(alias)] * 3))) == 1
    assert connections[alias].settings_dict["CONN_MAX_AGE"] == 0, "others keep Django's rule"


async def test_an_old_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_SECONDS", -1)
    assert len(set(await in_one_thread(*[used("default")] * 2))) == 2


@pytest.mark.parametrize("own", [{"CONN_MAX_AGE": 0.001}, {"OPTIONS": {"pool": {"min_size": 1}}}])
async def test_a_projects_own_rule_for_connections_is_not_changed(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, Any]
) -> None:
    for key, value in own.items():
        monkeypatch.setitem(connections["postgresql"].settings_dict, key, value)
    (options,) = await in_one_thread(lambda: connections["postgresql"].settings_dict)
    assert options is connections["postgresql"].settings_dict


async def test_after_a_restart_of_the_database_the_next_call_succeeds() -> None:
    def terminate() -> None:
        with connect_postgresql("postgres") as connection:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY(%s)"
            connection.execute(query, [pids])
        eventually(lambda: not alive(pids))

    def alive(pids: list[int]) -> list[Any]:
        with connect_postgresql("postgres") as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)"
            return connection.execute(query, [pids]).fetchall()

    def backend() -> int:
        with connections["postgresql"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])
        return pids[-1]

    pids: list[int] = []
    before, _, after = await in_one_thread(backend, terminate, backend)
    assert before != after


async def test_a_connection_within_a_transaction_is_replaced() -> None:
    def begin() -> None:
        transaction.atomic("postgresql").__enter__()

    def switch() -> None:
        connections["postgresql"].set_autocommit(False)

    def is_free() -> bool:
        used("postgresql")()
        return connections["postgresql"].get_autocommit()

    for leave_open in (begin, switch):
        assert await in_one_thread(leave_open, is_free) == [None, True]


async def test_a_restored_backup_of_sqlite_is_what_the_next_call_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, backup = tmp_path / "db.sqlite3", tmp_path / "backup.sqlite3"
    # Without WAL, whose second file has the newest commits.
    for key, value in {"NAME": str(file), "OPTIONS": {}}.items():
        monkeypatch.setitem(connections["default"].settings_dict, key, value)

    def run(sql: str) -> list[Any]:
        with connections["default"].cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def save() -> None:
        shutil.copy(file, backup)

    def restore() -> None:
        backup.replace(file)

    *_, rows = await in_one_thread(
        lambda: run("CREATE TABLE t (n int)"),
        save,
        lambda: run("INSERT INTO t VALUES (1)"),
        restore,
        lambda: run("SELECT n FROM t"),
    )
    assert rows == []


async def test_a_tests_connections_are_closed_after_each_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_threads, "is_testing", lambda: True)
    assert len(set(await in_one_thread(*[used("postgresql")] * 2))) == 2
