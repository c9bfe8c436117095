"""Readers that open a stream and do not read it, and what they cost a real server."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Server, StreamReader, eventually
from .parser import Parser

MIB = 1024 * 1024


def memory_of(server: Server) -> int:
    """The bytes of memory of the process that serves: not always the one that was started."""
    pid = run(server, "import os\nresult = os.getpid()")
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def run(server: Server, code: str) -> Any:
    answer = httpx.post(f"{server.url}/test/run/", data={"code": code}, timeout=60)
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()["result"]


def connect(
    server: Server, version: str = "1.1", buffer: int = 4096, group: str = "orders"
) -> socket.socket:
    """Open a stream and read no more than its head."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(20)
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
        "from sse_app.counters import COUNTS\n"
        "result = asdict(COUNTS)",
    )


FLOOD = """
from sse_app import publish_many
for n in range({start}, {stop}, 100):
    publish_many([("orders", "n", f"{{m}} " + "x" * {size}) for m in range(n, n + 100)])
"""

#: Ten megabytes; of what is sent on loopback, Linux takes up to four.
MORE_THAN_THE_SYSTEM_KEEPS = FLOOD.format(start=0, stop=200, size=50_000)


async def flood_past(server: Server, healthy: StreamReader, events: int, size: int = 2000) -> int:
    """Publish as fast as `healthy` gets it all in order; return by how much the server grew."""
    told: list[str] = []
    before = 0
    for start in range(0, events, 100):
        flood = FLOOD.format(start=start, stop=start + 100, size=size)
        await asyncio.to_thread(run, server, flood)
        told += [event.data.split()[0] for event in await healthy.take(100)]
        before = before or (memory_of(server) if start == 500 else 0)
    assert told == [str(n) for n in range(events)]
    return memory_of(server) - before


def end_while_stalled(server: Server, sleeper: socket.socket) -> None:
    """End the stream of a reader that takes nothing: it is gone long before `STALL_SECONDS`."""
    run(server, MORE_THAN_THE_SYSTEM_KEEPS)
    run(server, "from sse_app import disconnect\ndisconnect(group='orders')")
    eventually(lambda: server.streams() == 0, "it is still there")
    with pytest.raises(ConnectionResetError):
        drain(sleeper)
    sleeper.close()
