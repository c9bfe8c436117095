"""A thousand clients that return at once after a restart: `python -m benchmarks.returning`.

Every client missed at least fifty events. One Daphne process is restarted, all clients connect with
their `Last-Event-ID`, and the clock runs until each has got its missed events, in order and once,
and one more event that is published when the last client is live. The clients share the machine
with the server. The server counts reads of the log: `since()` for events, `heads()` for positions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from .daphne import Daphne
from .publish import Case, Publisher
from .publishers import GROUP, NAME
from .servers import Servers, machine, servers

ROUNDS: Final = 5
CLIENTS: Final = 1_000
MISSED: Final = 50
PATIENCE: Final = 30.0


class Client(asyncio.Protocol):
    """One raw HTTP connection that notes the numbers of the events it gets."""

    def __init__(self, port: int, query: str, last_id: str = "") -> None:
        header = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self._request = (
            f"GET /events/?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{header}\r\n".encode()
        )
        self._received = bytearray()
        self._searched = 0
        self.count = 0
        self._awaited: tuple[int, asyncio.Future[None]] | None = None

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self._transport = transport
        transport.write(self._request)

    def data_received(self, chunk: bytes) -> None:
        """Count the events that are complete."""
        self._received += chunk
        mark = b"event: %b\n" % NAME.encode()
        while (found := self._received.find(mark, self._searched)) >= 0:
            if self._received.find(b"\n\n", found) < 0:
                break
            self._searched = found + len(mark)
            self.count += 1
        if self._awaited and self.count >= self._awaited[0] and not self._awaited[1].done():
            self._awaited[1].set_result(None)

    async def until(self, count: int) -> None:
        """Return when `count` events have come."""
        if self.count < count:
            self._awaited = count, asyncio.get_running_loop().create_future()
            await self._awaited[1]

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()

    @property
    def ids(self) -> list[str]:
        """The ids of the events that came."""
        return [block["id"] for block in self._blocks()]

    @property
    def numbers(self) -> list[int]:
        """The numbers in the data of the events that came."""
        return [json.loads(block["data"])["id"] for block in self._blocks()]

    def _blocks(self) -> list[dict[str, str]]:
        blocks = []
        for text in self._received.decode().split("\n\n"):
            block = dict(line.partition(": ")[::2] for line in text.splitlines())
            if block.get("event") == NAME:
                blocks.append(block)
        return blocks


@dataclass
class Scenario:
    """A database, how many different cursors the clients have, and what was measured."""

    database: str
    cursors: int
    replayed: list[float] = field(default_factory=list)
    live: list[float] = field(default_factory=list)
    since: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)

    def row(self) -> str:
        """Return the line of the table."""
        times = [statistics.median(self.replayed), statistics.median(self.live), max(self.live)]
        shown = " | ".join(f"{seconds:.2f}" for seconds in times)
        reads = f"{statistics.median(self.since):.0f} | {max(self.since)} | {max(self.heads)}"
        return f"| {self.database} | {self.cursors} | {shown} | {reads} |"


async def connect(port: int, query: str, last_id: str = "") -> Client:
    """Return a client that has sent its request."""
    loop = asyncio.get_running_loop()
    client = Client(port, query, last_id)
    await loop.create_connection(lambda: client, "127.0.0.1", port)
    return client


async def last_ids(daphne: Daphne, count: int) -> tuple[list[str], list[int]]:
    """Return the ids and numbers of the last `count` events."""
    client = await connect(daphne.port, f"group={GROUP}&from=-{count}")
    await asyncio.wait_for(client.until(count), PATIENCE)
    client.close()
    return client.ids, client.numbers


async def measure(daphne: Daphne, scenario: Scenario) -> None:
    """Restart the server, let everybody return, note what it took."""
    # One more than was missed: a cursor is the position after an event.
    ids, numbers = await last_ids(daphne, MISSED + scenario.cursors)
    await asyncio.to_thread(daphne.stop)
    await asyncio.to_thread(daphne.start)
    indices = [n % scenario.cursors for n in range(CLIENTS)]
    before = await asyncio.to_thread(daphne.get, "bench/reads/")
    began = time.perf_counter()
    clients = await asyncio.gather(
        *(connect(daphne.port, f"group={GROUP}", ids[index]) for index in indices)
    )
    expected = [numbers[index + 1 :] for index in indices]
    async with asyncio.timeout(PATIENCE):
        for client, missed in zip(clients, expected, strict=True):
            await client.until(len(missed))
        scenario.replayed.append(time.perf_counter() - began)
        last = numbers[-1] + 1
        await asyncio.to_thread(daphne.get, f"bench/publish/{last}/")
        for client, missed in zip(clients, expected, strict=True):
            await client.until(len(missed) + 1)
    scenario.live.append(time.perf_counter() - began)
    after = await asyncio.to_thread(daphne.get, "bench/reads/")
    scenario.since.append(after["since"] - before["since"])
    scenario.heads.append(after["heads"] - before["heads"])
    for client, missed in zip(clients, expected, strict=True):
        assert client.numbers == [*missed, last], "not each event, once and in order"
        client.close()


def publish_history(found: Servers, database: str) -> None:
    """Publish what the first clients are to miss."""
    publisher = Publisher(Case(database, "each", 0, database=database, redis=False), found)
    publisher.publish(2 * MISSED + 10)
    publisher.close()


def table(scenarios: list[Scenario]) -> str:
    """Return the results as a Markdown table; times in seconds."""
    titles = [
        *("log", "cursors", "missed events there: median", "live event there: median", "max"),
        *("since() median", "max", "heads() max"),
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join([*lines, *(scenario.row() for scenario in scenarios)])


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    databases = ("sqlite", "postgresql")
    scenarios = [Scenario(database, cursors) for database in databases for cursors in (1, MISSED)]
    with ExitStack() as stack:
        found = stack.enter_context(servers())
        print(machine(found))
        daphnes = {}
        for database in databases:
            publish_history(found, database)
            daphnes[database] = stack.enter_context(Daphne(found, database))
        for _ in range(rounds):
            for scenario in scenarios:
                asyncio.run(measure(daphnes[scenario.database], scenario))
    print(f"{CLIENTS:,} clients, at least {MISSED} missed events each, {rounds} rounds")
    print(table(scenarios))


if __name__ == "__main__":
    main()
