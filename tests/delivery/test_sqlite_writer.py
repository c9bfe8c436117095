"""A transaction of the project that writes to SQLite for long: who only reads does not wait."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.sleepers import run

#: One thread for each kind of work. A read would wait there for a write that waits for the writer.
ONE_THREAD = (
    "from sse_app.runtime.threads import OWN, STORE, WRITES\n"
    "for threads in (OWN, STORE, WRITES):\n    threads._most = 1\n"
    "result = None"
)
BLOCKED = "from sse_app.runtime.threads import WRITES\nresult = len(WRITES._running)"


@contextmanager
def writing(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE sse_app_grouphead SET changed_at = changed_at")
        yield
        writer.execute("ROLLBACK")


def patient(file: Path) -> dict[str, str]:
    """Settings with which a read that needed the writer's lock would wait longer than the test."""
    options = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 10 * PATIENCE,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    }
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(file), "OPTIONS": options}
    return {"TEST_DJANGO": json.dumps({"DATABASES": {"default": database}})}


async def test_streams_open_and_replay_while_a_transaction_writes(
    make_daphne: Callable[..., Daphne], tmp_path: Path
) -> None:
    file = tmp_path / "db.sqlite3"
    policy = "tests.policies.signed_in"
    daphne = make_daphne(patient(file), PRUNE_INTERVAL=0.05, MAY_LISTEN=policy)
    visitor = httpx.AsyncClient(base_url=daphne.url, timeout=PATIENCE)
    (await visitor.post("/test/login/", data={"name": "ann"})).raise_for_status()
    session = {"Cookie": f"sessionid={visitor.cookies['sessionid']}"}
    await asyncio.to_thread(daphne.publish, "orders", "n", "before")
    await asyncio.to_thread(run, daphne, ONE_THREAD)
    async with daphne.stream("group=orders") as first:
        opened = await first.next()
        with writing(file):
            await asyncio.to_thread(eventually, lambda: run(daphne, BLOCKED), "nothing writes")
            for query, headers in (
                ("group=orders&from=-1", {}),
                ("group=orders&group=private.1", session),
                ("group=orders&group=new.1", {**session, "Last-Event-ID": opened.id}),
            ):
                async with daphne.stream(query, headers) as stream:
                    assert (await stream.next()).name == "sse.open", query
            answer = await visitor.get("/events/health/")
            fine = {"ready": True, "log": "ok", "layer": "ok", "hub": "ok"}
            assert answer.json().items() >= fine.items()
        await asyncio.to_thread(daphne.publish, "orders", "n", "after")
        assert (await first.next()).data == "after"
