"""Clients over plain sockets with the independent parser: they drop, come back, and note all."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..support.parser import Parsed, Parser

#: A stream that sends not even its heartbeat for so long hangs.
SILENCE_SECONDS: Final = 30.0


class Refused(Exception):
    """The answer is not a stream."""


async def open_stream(
    port: int, query: str, last_id: str, patience: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a stream; return once the head of the answer was read.

    Raises `Refused` if it is no stream, `TimeoutError`, `OSError` and `EOFError`.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        resume = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        head = f"GET /events/?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{resume}\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(patience):
            answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise Refused(answer.split(b"\r\n")[0].decode())
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a response body until its last one. Raises `EOFError` if it is cut."""
    while True:
        async with asyncio.timeout(SILENCE_SECONDS):
            size = await reader.readline()
            if not size.endswith(b"\n"):
                raise EOFError
            if (length := int(size, 16)) == 0:
                return
            yield (await reader.readexactly(length + 2))[:-2]


@dataclass(frozen=True)
class Reset:
    """One `sse.reset`: after how many events of its group, when, and when the stream had opened."""

    index: int
    at: float
    opened: float
    reason: str


@dataclass
class Received:
    """What one client got in one group, in order, and when."""

    data: list[str] = field(default_factory=list)
    at: array[float] = field(default_factory=lambda: array("d"))
    resets: list[Reset] = field(default_factory=list)


class Client:
    """One reader of some groups that always comes back with its last id."""

    def __init__(
        self, number: int, groups: Sequence[str], ports: Sequence[int], seed: int, *, late: bool
    ) -> None:
        self.number = number
        self.groups = tuple(groups)
        self.late = late
        self.received = {group: Received() for group in groups}
        self.count = 0
        self.opened = array("d")
        self.ports_used: list[int] = []
        self.refused: list[str] = []
        self.busy = self.unanswered = self.hung = 0
        self.restless = True
        self._ports = ports
        self._random = random.Random(f"{seed} client {number}")
        self._last_id = ""
        # One that comes late asks for all there is: it must see what the others saw.
        self._history = "&from=earliest" if late else ""

    async def run(self) -> None:
        """Read until cancelled."""
        query = "&".join(f"group={group}" for group in self.groups) + self._history
        while True:
            try:
                await self._connect(query)
            except TimeoutError:
                self.unanswered += 1
            except Refused as refused:
                self.refused.append(str(refused))
            except (OSError, EOFError):
                pass  # The server was killed.
            await asyncio.sleep(self._random.uniform(0.02, 0.4))

    async def _connect(self, query: str) -> None:
        port = self._random.choice(self._ports)
        # A dead server's socket still takes connections; who waits there goes elsewhere.
        patience = self._random.uniform(1.0, 5.0)
        reader, writer = await open_stream(port, query, self._last_id, patience)
        try:
            await self._read(reader, port)
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, port: int) -> None:
        parser = Parser(last_id=self._last_id, _id=self._last_id)
        left = self._random.randint(10, 2000)
        try:
            async for chunk in chunks(reader):
                parser.feed(chunk)
                for event in parser.events:
                    self._take(event, port)
                    left -= 1
                    if left <= 0 and self.restless:
                        return
                parser.events.clear()
        except TimeoutError:
            self.hung += 1

    def _take(self, event: Parsed, port: int) -> None:
        self._last_id = event.id or self._last_id
        received = self.received.get(event.name)
        if received is not None:
            received.data.append(sys.intern(event.data))
            received.at.append(time.monotonic())
            self.count += 1
        elif event.name == "sse.open":
            self.opened.append(time.monotonic())
            self.ports_used.append(port)
        elif event.name == "sse.reset":
            said = event.json()
            received = self.received[said["group"]]
            reset = Reset(len(received.data), time.monotonic(), self.opened[-1], said["reason"])
            received.resets.append(reset)
        elif event.name == "sse.busy":
            self.busy += 1

    @property
    def resets(self) -> list[str]:
        """The groups and reasons of all resets."""
        return [f"{g} {reset.reason}" for g, got in self.received.items() for reset in got.resets]

    def has(self, group: str, data: str) -> bool:
        """Whether the last event of `group` that came is `data`."""
        return self.received[group].data[-1:] == [data]

    def connection_at(self, moment: float) -> tuple[float, int]:
        """Return when the stream that was open at `moment` had opened, and its server's port."""
        index = bisect_right(self.opened, moment) - 1
        return self.opened[index], self.ports_used[index]
