"""The load client: one process that reads many event streams with one epoll.

Raw sockets, one reused buffer, and events counted by the one `@` that each has, so that it costs
much less than what it measures. After the `@` is the monotonic clock of the publisher, which all
processes of a machine share; every so many streams read it for the latency.

It prints one line of JSON once the streams have their first event, and after each line on stdin
one of what has come since the last.
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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

BUFFER: Final = 256 * 1024
PATIENCE: Final = 60.0
DRAIN: Final = 2.0
#: What the streams that never read have: the server has to keep the rest.
MUTE_BUFFER: Final = 16 * 1024
STAMP: Final = re.compile(rb"@(\d+)\.")
#: What no event can end with but a stamp that was cut.
LONGEST_STAMP: Final = 24


@dataclass(slots=True)
class Stream:
    """One connection, with the bytes before its first event, or after its last stamp."""

    socket: socket.socket
    receive: Callable[[bytearray], int]
    request: bytes
    sampled: bool
    open: bool = False
    rest: bytes = b""


@dataclass
class Client:
    """All connections."""

    port: int
    path: str
    cookies: list[str]
    every: int
    streams: dict[int, Stream] = field(default_factory=dict)
    mute: list[socket.socket] = field(default_factory=list)
    buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER))
    opened: int = 0
    ended: int = 0

    def __post_init__(self) -> None:
        self._epoll = select.epoll()
        self._forget()

    def _forget(self) -> None:
        self.latencies: list[int] = []
        self.reads = self.events = self.size = 0
        self._began, self._cpu = time.monotonic(), time.process_time()
        self._last = self._began

    def connect(self, readers: int, mute: int, batch: int) -> dict[str, float]:
        """Open the streams, `batch` at once; return how many opened, and after how long."""
        for _ in range(mute):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MUTE_BUFFER)
            connection.connect(("127.0.0.1", self.port))
            connection.sendall(self._request(0))
            self.mute.append(connection)
        began, asked = time.monotonic(), 0
        while asked < readers:
            for n in range(asked, min(asked + batch, readers)):
                self._connect(n)
            asked = min(asked + batch, readers)
            while self.opened + self.ended < asked and time.monotonic() < began + PATIENCE:
                self._read(1.0)
        seconds, cpu = time.monotonic() - began, time.process_time() - self._cpu
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        self._forget()
        return {"opened": self.opened, "seconds": seconds, "cpu": cpu / seconds}

    def _request(self, n: int) -> bytes:
        cookie = f"Cookie: sessionid={self.cookies[n]}\r\n" if self.cookies else ""
        host = f"Host: 127.0.0.1:{self.port}\r\n"
        return f"GET {self.path} HTTP/1.1\r\n{host}{cookie}\r\n".encode()

    def _connect(self, n: int) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", self.port))
        descriptor = connection.fileno()
        sampled = n % self.every == 0
        stream = Stream(connection, connection.recv_into, self._request(n), sampled)
        self.streams[descriptor] = stream
        self._epoll.register(descriptor, select.EPOLLOUT)

    def until_asked(self) -> dict[str, Any]:
        """Read until there is a line on stdin; return the figures since the last line."""
        while not self._read(10.0):
            pass
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
                if not sys.stdin.readline():
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
            stream.socket.send(stream.request)
        except OSError:
            self._end(descriptor)
        else:
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _open(self, descriptor: int, stream: Stream, size: int) -> None:
        stream.rest += self.buffer[:size]
        if not stream.rest.startswith(b"HTTP/1.1 200") or b"sse.busy" in stream.rest:
            self._end(descriptor)
        elif b"\ndata:" in stream.rest:
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
    parser.add_argument("--core", type=int, default=1)
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core % (os.cpu_count() or 1)})
    cookies = given.cookies.read_text().split() if given.cookies else []
    client = Client(given.port, given.path, cookies, given.every)
    print(json.dumps(client.connect(given.readers, given.mute, given.batch)), flush=True)
    while True:
        print(json.dumps(client.until_asked()), flush=True)


if __name__ == "__main__":
    main()
