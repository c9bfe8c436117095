"""Readers that open a stream and do not read it, and what they cost a real server."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import httpx
import pytest

from .parser import Parser
from .patience import PATIENCE
from .servers import Server, StreamReader, eventually

MIB = 1024 * 1024
# Python's objects only: what a process has of the system depends on what `malloc` gives back.
START_COUNTING = "import tracemalloc\ntracemalloc.start()"
# One page of the log may be kept for readers that lag: by default a thousand events.
SMALL_PAGES = """
import sys
for module in list(sys.modules.values()):
    if hasattr(module, "PAGE_EVENTS"):
        module.PAGE_EVENTS = 100
"""
KEPT = """
import gc, tracemalloc
gc.collect()
taken = tracemalloc.take_snapshot().statistics("lineno")
result = sum(part.size for part in taken), [str(part) for part in taken[:9]]
tracemalloc.stop()
"""


def start_counting(server: Server) -> None:
    """Count, from now on, the bytes of the objects that the server makes and keeps."""
    run(server, START_COUNTING)


def kept_by(server: Server) -> int:
    """Return the bytes of the objects made since `start_counting()` that are still there.

    Ends the counting, and prints which lines made most of it.
    """
    kept, most = run(server, KEPT)
    print(*most, sep="\n")
    return int(kept)


def run(server: Server, code: str) -> Any:
    answer = httpx.post(f"{server.url}/test/run/", data={"code": code}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()["result"]


def connect(
    server: Server, version: str = "1.1", buffer: int = 4096, group: str = "orders"
) -> socket.socket:
    """Open a stream and read no more than its head."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", server.port))
    request = f"GET /events/?group={group} HTTP/{version}\r\nHost: localhost\r\n\r\n"
    connection.sendall(request.encode())
    assert b" 200 " in connection.recv(15, socket.MSG_WAITALL)
    return connection


def read_until(connection: socket.socket, last: str, *, chunked: bool = True) -> list[str]:
    """Read the stream up to the event `last`; return the data of all events."""
    parser, buffer = Parser(), b""
    head, rest = True, b""
    while not any(event.data.startswith(last) for event in parser.events[-1:]):
        received = connection.recv(65536)
        assert received, "the stream ended"
        buffer += received
        if head:
            _, found, rest = buffer.partition(b"\r\n\r\n")
            if not found:
                continue
            head, buffer = False, rest
        if not chunked:
            parser.feed(buffer)
            buffer = b""
            continue
        while b"\r\n" in buffer:
            size, _, body = buffer.partition(b"\r\n")
            length = int(size, 16)
            if len(body) < length + 2:
                break
            assert body[length : length + 2] == b"\r\n"
            parser.feed(body[:length])
            buffer = body[length + 2 :]
    return [event.data for event in parser.events if event.name == "n"]


def drain(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def hang_up(connection: socket.socket, how: str) -> None:
    """Leave by `"fin"`, as a client does, or by `"rst"`, as the system does for a dead one."""
    if how == "rst":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def counts(server: Server) -> Any:
    return run(
        server,
        "from dataclasses import asdict\n"
        "from sse_app.runtime.telemetry import COUNTS\n"
        "result = asdict(COUNTS)",
    )


FLOOD = """
from sse_app import publish_many
for n in range({start}, {stop}, 100):
    publish_many([("orders", "n", f"{{m}} " + "x" * {size}) for m in range(n, n + 100)])
"""

#: Ten megabytes; of what is sent on loopback, Linux takes up to four.
MORE_THAN_THE_SYSTEM_KEEPS = FLOOD.format(start=0, stop=200, size=50_000)


async def flood(server: Server, healthy: StreamReader, numbers: range, size: int = 2000) -> None:
    """Publish as fast as `healthy` gets it all in order."""
    told: list[str] = []
    for start in numbers[::100]:
        code = FLOOD.format(start=start, stop=start + 100, size=size)
        await asyncio.to_thread(run, server, code)
        told += [event.data.split()[0] for event in await healthy.take(100)]
    assert told == [str(n) for n in numbers]


async def flood_past(server: Server, healthy: StreamReader, events: int, size: int = 2000) -> int:
    """As `flood()`; return how many bytes the server keeps of it.

    The first 500 events do not count: they fill what is kept for every stream.
    """
    await asyncio.to_thread(run, server, SMALL_PAGES)
    await flood(server, healthy, range(500), size)
    await asyncio.to_thread(start_counting, server)
    await flood(server, healthy, range(500, events), size)
    return await asyncio.to_thread(kept_by, server)


def end_while_stalled(server: Server, sleeper: socket.socket) -> None:
    """End the stream of a reader that takes nothing: it is gone long before `STALL_SECONDS`."""
    run(server, MORE_THAN_THE_SYSTEM_KEEPS)
    run(server, "from sse_app import disconnect\ndisconnect(group='orders')")
    eventually(lambda: server.streams() == 0, "it is still there")
    with pytest.raises(ConnectionResetError):
        drain(sleeper)
    sleeper.close()
