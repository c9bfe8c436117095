"""How many events one process publishes in a second: `python -m benchmarks.publish`.

Every case has a process of its own that stays for all rounds, and the rounds are interleaved, so
that a machine that gets slower in the middle does so for all cases. A round counts only if all its
events were delivered: the log's head must have moved by their number, and a subscriber must have
got them all. For the memory log the subscriber is in the process itself, with the in-memory layer;
else it reads from Valkey, with the Redis pub/sub layer. An event has about 200 bytes on the wire.

PostgreSQL's rate depends mostly on the disk, since each publish is a COMMIT. So a case that only
inserts a row is measured, too, and both again without waiting for the disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .publishers import MANY
from .servers import ROOT, Servers, machine, servers

ROUNDS: Final = 5
MEMORY: Final = "sse_app.eventlog.MemoryEventLog"
REDIS: Final = "sse_app.eventlog.RedisEventLog"


@dataclass
class Case:
    """What one process does in each round, and the rates of the rounds so far."""

    title: str
    work: str
    events: int
    goal: int = 0
    log: str = ""
    database: str = "sqlite"
    redis: bool = True
    rates: list[float] = field(default_factory=list)

    @property
    def publishes(self) -> bool:
        """Whether its events go out on Valkey."""
        return self.redis and self.work != "commit"

    @property
    def per_call(self) -> int:
        """How many events one call publishes."""
        return MANY if "many" in self.work else 1


def cases() -> list[Case]:
    """Return them in the order of the table."""
    memory: dict[str, Any] = {"log": MEMORY, "redis": False}
    redis: dict[str, Any] = {"log": REDIS}
    disk: dict[str, Any] = {"database": "postgresql"}
    no_disk: dict[str, Any] = {"database": "postgresql-async"}
    waits, waits_not = "PostgreSQL", "PostgreSQL, synchronous_commit=off"
    return [
        Case("memory, in the loop, to a subscriber", "each-in-loop", 20_000, 20_000, **memory),
        Case("memory, in the loop, to a subscriber", "many-in-loop", 40_000, **memory),
        Case("memory, append() alone", "append", 40_000, 50_000, **memory),
        Case("memory, append() alone", "append-many", 40_000, **memory),
        Case("Redis", "each", 2_500, 2_500, **redis),
        Case("Redis", "many", 15_000, **redis),
        Case("SQLite", "each", 2_000, 1_500),
        Case("SQLite", "many", 15_000),
        Case(waits, "each", 800, 1_500, **disk),
        Case(waits, "many", 8_000, **disk),
        Case(f"{waits}, only INSERT and COMMIT", "commit", 800, **disk),
        Case(waits_not, "each", 1_500, 1_500, **no_disk),
        Case(waits_not, "many", 15_000, **no_disk),
        Case(f"{waits_not}, only INSERT and COMMIT", "commit", 1_500, **no_disk),
    ]


class Publisher:
    """The process of one case."""

    def __init__(self, case: Case, found: Servers, root: Path = ROOT) -> None:
        self.case = case
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.publishers", case.work],
            cwd=root,
            env=found.environment(case.database, redis=case.redis, log=case.log),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def publish(self, count: int, *more: int) -> dict[str, Any]:
        """Let it publish `count` events; return what it says. `more`: what the work needs too."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(" ".join(map(str, (count, *more))) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process of {self.case.title!r} ended"
        answer: dict[str, Any] = json.loads(line)
        assert answer["logged"] == count, f"{answer} of {count} are in the log"
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()


class Arrivals:
    """Counts the events that a subscriber gets from Valkey, outside the measured process."""

    def __init__(self, url: str) -> None:
        import redis

        # Kept: a client that goes away closes the connections of its pool.
        self._client: Any = redis.Redis.from_url(url)
        self._pubsub = self._client.pubsub()  # type: ignore[no-untyped-call]  # redis-py lacks it
        # All groups of the layer: how the app names them is its own affair.
        self._pubsub.psubscribe("asgi__group__*")
        self._pubsub.get_message(timeout=5)

    def take(self, count: int) -> None:
        """Return when exactly `count` events have come; fail if they do not."""
        import msgpack

        got = 0
        deadline = time.monotonic() + 10
        while got < count and time.monotonic() < deadline:
            message = self._pubsub.get_message(timeout=1)
            if message and message["type"] == "pmessage":
                content = msgpack.unpackb(message["data"])
                got += len(content.get("events", [None]))
        assert got == count, f"{got} of {count} arrived"


def measure(publisher: Publisher, arrivals: Arrivals, count: int) -> float:
    """Return the events per second of one round."""
    answer = publisher.publish(count)
    if publisher.case.publishes:
        arrivals.take(count)
    assert answer.get("arrived", count) == count, f"{answer} of {count} arrived"
    return float(count / answer["seconds"])


def table(measured: list[Case]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| log and layer | events per call | median /s | min | max | goal |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case in measured:
        figures = [statistics.median(case.rates), min(case.rates), max(case.rates)]
        shown = " | ".join(f"{figure:,.0f}" for figure in figures)
        goal = f"{case.goal:,}" if case.goal else ""
        lines.append(f"| {case.title} | {case.per_call} | {shown} | {goal} |")
    return "\n".join(lines)


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        found = stack.enter_context(servers())
        print(machine(found))
        arrivals = Arrivals(found.redis_url)
        publishers = [Publisher(case, found) for case in cases()]
        for publisher in publishers:
            stack.callback(publisher.close)
            measure(publisher, arrivals, 1_000)  # Connections are made, caches filled.
        for _ in range(rounds):
            for publisher in publishers:
                rate = measure(publisher, arrivals, publisher.case.events)
                publisher.case.rates.append(rate)
        print(table([publisher.case for publisher in publishers]))


if __name__ == "__main__":
    main()
