"""The process that `benchmarks.publish` measures: it publishes the requested number of events.

One case for each process, named on the command line. Each line on stdin is a number of events, and
for some cases more numbers; the answer on stdout is one line of JSON: the seconds until all had
left, and how far the log got.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final

MANY: Final = 100
BURST: Final = 500
GROUP: Final = "bench"
NAME: Final = "order.updated"
#: With the number that is added about 200 bytes on the wire.
TEXT: Final = "x" * 150


def own(n: int) -> str:
    """Return the name of the own group number `n`."""
    return f"own.{n}"


def data(n: int) -> dict[str, Any]:
    """Return the data of the event `n`, as a project gives it: a dict that becomes JSON."""
    return {"id": n, "text": TEXT}


def publish_each(count: int) -> None:
    """Publish one event per call."""
    from sse_app import publish

    for n in range(count):
        publish(GROUP, NAME, data(n))


def publish_many(count: int) -> None:
    """Publish a hundred events per call."""
    from sse_app import publish_many

    for first in range(0, count, MANY):
        publish_many([(GROUP, NAME, data(n)) for n in range(first, first + MANY)])


def from_sync_code(work: Callable[[int], None]) -> Callable[[int], dict[str, Any]]:
    """Measure `work` until all of it is with the log and the channel layer."""

    def measure(count: int) -> dict[str, Any]:
        from sse_app.publishing import outbox

        before = head()
        began = time.perf_counter()
        work(count)
        assert outbox.flush(30), "the channel layer did not take everything"
        return {"seconds": time.perf_counter() - began, "logged": head() - before}

    return measure


def in_the_loop(
    work: Callable[[int], None],
) -> Callable[[int], Awaitable[dict[str, Any]]]:
    """Measure `work` in bursts, each until its last event has arrived at a subscription."""

    async def measure(count: int) -> dict[str, Any]:
        from .reader import Reader

        reader = await Reader.start(GROUP)
        before = head()
        began = time.perf_counter()
        for done in range(0, count, BURST):
            work(BURST)
            await reader.until(done + BURST)
        seconds = time.perf_counter() - began
        await reader.stop()
        return {"seconds": seconds, "logged": head() - before, "arrived": reader.count}

    return measure


def publish_in_threads(count: int, threads: int, groups: int) -> dict[str, Any]:
    """Publish from threads at once, one event per call, each to one of so many own groups."""
    from sse_app import publish

    names, start = [own(n) for n in range(groups)], threading.Barrier(threads)

    def work(calls: range) -> list[float]:
        took = []
        start.wait()
        for n in calls:
            began = time.perf_counter()
            publish(names[n % groups], NAME, data(n))
            took.append(time.perf_counter() - began)
        return took

    before = head(*names)
    began = time.perf_counter()
    parts = _executor(threads).map(work, (range(n, count, threads) for n in range(threads)))
    took = sorted(second for part in parts for second in part)
    seconds = time.perf_counter() - began
    logged = head(*names) - before
    return {"seconds": seconds, "logged": logged, "p99": took[int(len(took) * 0.99)] * 1e3}


@cache
def _executor(threads: int) -> ThreadPoolExecutor:
    """Return threads that stay, with their connections to the database."""
    return ThreadPoolExecutor(threads)


def append(count: int, size: int) -> dict[str, Any]:
    """Append events made before to the log alone, `size` at a time."""
    from sse_app.eventlog import event_log
    from sse_app.protocol.events import Event

    calls = [
        [Event.of(GROUP, NAME, data(first + n)) for n in range(size)]
        for first in range(0, count, size)
    ]
    log, before = event_log(), head()
    began = time.perf_counter()
    for events in calls:
        log.append(events)
    return {"seconds": time.perf_counter() - began, "logged": head() - before}


def commit(count: int) -> dict[str, Any]:
    """Insert one row per transaction by the driver alone: what the database costs without us."""
    from django.db import connection

    connection.ensure_connection()
    driver: Any = connection.connection
    with driver.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS floor (id bigserial PRIMARY KEY, data text)")
        began = time.perf_counter()
        for _ in range(count):
            cursor.execute("INSERT INTO floor (data) VALUES (%s)", [TEXT])
        return {"seconds": time.perf_counter() - began, "logged": count}


def head(*groups: str) -> int:
    """Return the offset of the group's last event; of several groups the sum."""
    from sse_app.eventlog import event_log

    return sum(head.offset for head in event_log().heads(groups or (GROUP,)).values())


WORKS: Final[dict[str, Any]] = {
    "each": from_sync_code(publish_each),
    "many": from_sync_code(publish_many),
    "each-in-loop": in_the_loop(publish_each),
    "many-in-loop": in_the_loop(publish_many),
    "commit": commit,
    "threads": publish_in_threads,
    "append": lambda count: append(count, 1),
    "append-many": lambda count: append(count, MANY),
}


def main(name: str) -> None:
    """Answer each line of stdin until it ends."""
    import django

    django.setup()
    work = WORKS[name]
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            result = work(*map(int, line.split()))
            if asyncio.iscoroutine(result):
                result = runner.run(result)
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
