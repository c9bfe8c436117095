"""The client of `benchmarks.fanout`: one process that reads many event streams with one epoll.

Raw sockets, one reused buffer, and events counted by their blank line, so that it costs much less
than what it measures. The data of the events begins with the monotonic clock of their publisher,
which all processes of a machine share: a tenth of the streams reads it for the latency.

It prints `ready` once every stream has its first event, and after a line on stdin one line of JSON.
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
from dataclasses import dataclass, field
from typing import Any, Final

BUFFER: Final = 256 * 1024
SAMPLED: Final = 10
PATIENCE: Final = 20.0
#: What the streams that never read have: the server has to keep the rest.
MUTE_BUFFER: Final = 16 * 1024
STAMP: Final = re.compile(rb"t=(\d+)\.")


@dataclass
class Stream:
    """One connection and what has come on it."""

    socket: socket.socket
    sampled: bool
    events: int = 0
    line_ended: bool = False
    rest: bytes = b""


@dataclass
class Client:
    """All connections; `run()` reads until stdin says to stop."""

    streams: dict[int, Stream] = field(default_factory=dict)
    mute: list[socket.socket] = field(default_factory=list)
    buffer: bytearray = field(default_factory=lambda: bytearray(BUFFER))
    latencies: list[int] = field(default_factory=list)
    reads: int = 0
    events: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        self._epoll = select.epoll()

    def connect(self, port: int, path: str, readers: int, mute: int) -> None:
        """Open the streams; return when each of those that read has had its first event."""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        for n in range(readers + mute):
            connection = socket.socket()
            if n >= readers:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MUTE_BUFFER)
            connection.connect(("127.0.0.1", port))
            connection.sendall(request)
            if n >= readers:
                self.mute.append(connection)
                continue
            connection.setblocking(False)
            self.streams[connection.fileno()] = Stream(connection, n % SAMPLED == 0)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        deadline = time.monotonic() + PATIENCE
        while not all(stream.events for stream in self.streams.values()):
            if time.monotonic() > deadline:
                raise TimeoutError("not every stream opened")
            self._read(1.0)
        self.latencies.clear()
        self.reads = self.events = self.size = 0

    def run(self) -> dict[str, Any]:
        """Read until there is a line on stdin; return what came."""
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)
        began, cpu = time.monotonic(), time.process_time()
        last, counted = began, 0
        while not self._read(10.0):
            if self.events != counted:
                last, counted = time.monotonic(), self.events
        spent = time.process_time() - cpu
        self._epoll.unregister(sys.stdin.fileno())
        latencies = sorted(self.latencies)
        return {
            "events": self.events,
            "reads": self.reads,
            "bytes": self.size,
            "seconds": last - began,
            "cpu": spent / max(last - began, 0.001),
            "p50": statistics.median(latencies) / 1e6 if latencies else None,
            "p99": latencies[int(len(latencies) * 0.99)] / 1e6 if latencies else None,
        }

    def _read(self, seconds: float) -> bool:
        """Read what there is; return whether stdin has something."""
        stop = False
        for descriptor, _ in self._epoll.poll(seconds):
            stream = self.streams.get(descriptor)
            if stream is None:
                stop = True
                continue
            size = stream.socket.recv_into(self.buffer)
            if not size:
                raise ConnectionError("the server ended a stream")
            self._count(stream, size)
        return stop

    def _count(self, stream: Stream, size: int) -> None:
        count = self.buffer.count(b"\n\n", 0, size)
        count += stream.line_ended and self.buffer[0] == 10
        stream.line_ended = self.buffer[size - 1] == 10 and self.buffer[size - 2 : size] != b"\n\n"
        stream.events += count
        self.events += count
        self.reads += 1
        self.size += size
        if stream.sampled:
            now = time.monotonic_ns()
            text = stream.rest + self.buffer[:size]
            found = None
            for found in STAMP.finditer(text):
                self.latencies.append(now - int(found[1]))
            # A stamp may have been cut; none is longer than this.
            stream.rest = text[max(found.end() if found else 0, len(text) - 24) :]


def main() -> None:
    """Open the streams, say so, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--mute", type=int, default=0)
    parser.add_argument("--core", type=int, default=1)
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core % (os.cpu_count() or 1)})
    client = Client()
    client.connect(given.port, given.path, given.readers, given.mute)
    print("ready", flush=True)
    print(json.dumps(client.run()), flush=True)


if __name__ == "__main__":
    main()
