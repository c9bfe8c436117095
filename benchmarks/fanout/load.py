"""The load client: one process that reads many event streams with one epoll.

Raw sockets, one reused buffer, and events counted by the one `@` that each has, so that it costs
much less than what it measures. After the `@` is the monotonic clock of the publisher, which all
processes of a machine share; every so many streams read it for the latency.

It prints one line of JSON once the streams have their first event, and one after each line on
stdin. An empty line asks for what has come since the last; other lines are commands with numbers:
`open COUNT BATCH` opens more streams, `leave` closes all, `back BATCH EVENTS` opens those again,
each where it was, and reads so many events of each, and `churn RATE SECONDS` opens and closes
streams beside those that stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

BUFFER: Final = 256 * 1024
PATIENCE: Final = 120.0
DRAIN: Final = 2.0
#: What the streams that never read have: the server has to keep the rest.
MUTE_BUFFER: Final = 16 * 1024
STAMP: Final = re.compile(rb"@(\d+)\.")
#: What no event can end with but a stamp that was cut.
LONGEST_STAMP: Final = 24
#: The last id before or in the first event; a stream that comes back sends it.
ID: Final = re.compile(rb"^id: ?(\S+)", re.MULTILINE)
#: How many streams that come and go are open at a time.
CHURNING: Final = 50


def keep_to(core: int) -> None:
    """Run this process on one core, if it may."""
    with suppress(OSError):
        os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})


@dataclass(slots=True)
class Stream:
    """One connection, with the bytes before its first event, or after its last stamp."""

    socket: socket.socket
    receive: Callable[[bytearray], int]
    number: int
    sampled: bool
    asked: float
    open: bool = False
    rest: bytes = b""


@dataclass
class Client:
    """All connections."""

    port: int
    path: str
    cookies: list[str]
    every: int
    groups: int = 1
    separator: str = ""
    streams: dict[int, Stream] = field(default_factory=dict)
    mute: list[socket.socket] = field(default_factory=list)
    buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER))
    ids: dict[int, str] = field(default_factory=dict)
    opened: int = 0
    ended: int = 0
    #: How many got `sse.busy` in place of a stream.
    busy: int = 0
    #: The number of the next new stream.
    next: int = 0

    def __post_init__(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._line = ""
        self._forget()

    def _forget(self) -> None:
        self.latencies: list[int] = []
        self.reads = self.events = self.size = 0
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._last = self._began

    def add_mute(self, count: int) -> None:
        """Open streams that never read."""
        for _ in range(count):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MUTE_BUFFER)
            connection.connect(("127.0.0.1", self.port))
            connection.sendall(self._request(0))
            self.mute.append(connection)

    def open(self, count: int, batch: int, events: int = 0) -> dict[str, float]:
        """Open `count` more streams; return how many are open, and after how long.

        `batch`: how many wait for their first event at a time. `events`: each is then read until it
        has had so many.
        """
        self._forget()
        first, asked, answered = self.next, 0, self.opened + self.ended
        while time.monotonic() < self._began + PATIENCE:
            waiting = asked - (self.opened + self.ended - answered)
            for _ in range(min(batch - waiting, count - asked)):
                self._connect(first + asked)
                asked += 1
            if self.opened + self.ended - answered == count and self.events >= self.opened * events:
                break
            self._read(0.1)
        self.next = first + count
        seconds, cpu = time.monotonic() - self._began, time.process_time() - self._cpu
        figures = {"opened": self.opened, "busy": self.busy, "events": self.events}
        self._forget()
        return {**figures, "seconds": seconds, "cpu": cpu / seconds}

    def leave(self) -> dict[str, float]:
        """Close all streams."""
        left = len(self.streams)
        for descriptor in list(self.streams):
            self._close(descriptor)
        self.opened = self.ended = self.busy = self.next = 0
        return {"left": left}

    def churn(self, rate: float, seconds: float) -> dict[str, Any]:
        """Let `rate` streams a second come, and as many go."""
        came: deque[int] = deque()
        opened, ended = self.opened, self.ended
        began = time.monotonic()
        for n in range(round(rate * seconds)):
            while (left := began + n / rate - time.monotonic()) > 0:
                self._read(left)
            came.append(self._connect(self.next + n))
            if len(came) > CHURNING:
                self._close(came.popleft())
        deadline = time.monotonic() + DRAIN
        while not all(self.streams[one].open for one in came) and time.monotonic() < deadline:
            self._read(0.1)
        for descriptor in came:
            self._close(descriptor)
        joined, self.opened = self.opened - opened, opened
        return {"joined": joined, "ended": self.ended - ended, "busy": self.busy}

    def _close(self, descriptor: int) -> None:
        self.streams.pop(descriptor).socket.close()  # The epoll forgets it with that.

    def _request(self, n: int) -> bytes:
        names = (f"own.{group}" for group in range(n * self.groups, (n + 1) * self.groups))
        path = self.path.replace("{groups}", self.separator.join(names))
        lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        lines.append("Accept: text/event-stream")
        if self.cookies:
            lines.append(f"Cookie: sessionid={self.cookies[n]}")
        if n in self.ids:
            lines.append(f"Last-Event-ID: {self.ids[n]}")
        return "\r\n".join([*lines, "\r\n"]).encode()

    def _connect(self, n: int) -> int:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", self.port))
        descriptor = connection.fileno()
        sampled, now = n % self.every == 0, time.monotonic()
        self.streams[descriptor] = Stream(connection, connection.recv_into, n, sampled, now)
        self._epoll.register(descriptor, select.EPOLLOUT)
        return descriptor

    def until_asked(self) -> dict[str, Any]:
        """Read until there is a line on stdin; return the answer."""
        while not self._read(10.0):
            pass
        match self._line.split():
            case ["open", count, batch]:
                return self.open(int(count), int(batch))
            case ["leave"]:
                return self.leave()
            case ["back", batch, events]:
                return self.open(len(self.ids), int(batch), int(events))
            case ["churn", rate, seconds]:
                return self.churn(float(rate), float(seconds))
        return self.figures()

    def figures(self) -> dict[str, Any]:
        """Return the figures since the last time."""
        # There may be more streams that can be read than one poll tells of.
        deadline, read = time.monotonic() + DRAIN, -1
        while read != self.reads and time.monotonic() < deadline:
            read = self.reads
            self._read(0)
        latencies, seconds = sorted(self.latencies), self._last - self._began
        found = {
            "events": self.events,
            "reads": self.reads,
            "bytes": self.size,
            "seconds": seconds,
            "cpu": (time.process_time() - self._cpu) / max(seconds, 0.001),
            "ended": self.ended,
            "p50": statistics.median(latencies) / 1e6 if latencies else None,
            "p99": latencies[int(len(latencies) * 0.99)] / 1e6 if latencies else None,
            "max": latencies[-1] / 1e6 if latencies else None,
        }
        self._forget()
        return found

    def _read(self, seconds: float) -> bool:
        """Read all data that is there; return whether stdin had a line."""
        asked, before = False, self.events
        buffer, streams = self.buffer, self.streams
        for descriptor, ready in self._epoll.poll(seconds):
            stream = streams.get(descriptor)
            if stream is None:
                self._line = sys.stdin.readline()
                if not self._line:
                    sys.exit()
                asked = True
                continue
            if ready & select.EPOLLOUT:
                self._send(descriptor, stream)
                continue
            try:
                size = stream.receive(buffer)
            except OSError:
                size = 0
            if not size:
                self._end(descriptor)
            elif stream.open:
                self.events += buffer.count(64, 0, size)  # of @
                self.reads += 1
                self.size += size
                if stream.sampled:
                    self._sample(stream, size)
            else:
                self._open(descriptor, stream, size)
        if self.events > before:
            self._last = time.monotonic()
        return asked

    def _send(self, descriptor: int, stream: Stream) -> None:
        try:
            stream.socket.send(self._request(stream.number))
        except OSError:
            self._end(descriptor)
        else:
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _open(self, descriptor: int, stream: Stream, size: int) -> None:
        stream.rest += self.buffer[:size]
        if not stream.rest.startswith(b"HTTP/1.1 200") or b"sse.busy" in stream.rest:
            self.busy += b"sse.busy" in stream.rest
            self._end(descriptor)
        # nchan begins with a comment.
        elif b"\ndata:" in stream.rest or b"\n: hi\n" in stream.rest:
            if found := ID.search(stream.rest):
                self.ids[stream.number] = found[1].decode()
            self.events += stream.rest.count(b"@")
            stream.open, stream.rest = True, b""
            self.opened += 1

    def _sample(self, stream: Stream, size: int) -> None:
        now = time.monotonic_ns()
        text = stream.rest + self.buffer[:size]
        found = None
        for found in STAMP.finditer(text):
            self.latencies.append(now - int(found[1]))
        stream.rest = text[max(found.end() if found else 0, len(text) - LONGEST_STAMP) :]

    def _end(self, descriptor: int) -> None:
        # The socket is kept: its number must not become another's.
        self._epoll.unregister(descriptor)
        self.ended += 1


def main() -> None:
    """Open the streams, report that, and answer the lines of stdin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--mute", type=int, default=0)
    parser.add_argument("--batch", type=int, default=250, help="how many connect at once")
    parser.add_argument("--every", type=int, default=10, help="one in how many reads its latency")
    parser.add_argument("--cookies", type=Path, help="a file of session cookies, one a stream")
    parser.add_argument("--groups", type=int, default=1, help="own groups of each stream")
    parser.add_argument("--separator", default="", help="between groups in the path's {groups}")
    parser.add_argument("--core", type=int, default=1)
    given = parser.parse_args()
    keep_to(given.core)
    cookies = given.cookies.read_text().split() if given.cookies else []
    client = Client(given.port, given.path, cookies, given.every, given.groups, given.separator)
    client.add_mute(given.mute)
    print(json.dumps(client.open(given.readers, given.batch)), flush=True)
    while True:
        print(json.dumps(client.until_asked()), flush=True)


if __name__ == "__main__":
    main()
