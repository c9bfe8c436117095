"""A slow or dead reader costs a bounded amount of memory and delays nobody else, on real Daphne."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import Daphne, eventually
from .parser import Parser

MIB = 1024 * 1024


def memory_of(daphne: Daphne) -> int:
    assert daphne.process is not None
    for line in Path(f"/proc/{daphne.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def run(daphne: Daphne, code: str) -> Any:
    answer = httpx.post(f"{daphne.url}/test/run/", data={"code": code}, timeout=60)
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()["result"]


def connect(daphne: Daphne, version: str = "1.1", buffer: int = 4096) -> socket.socket:
    """Open a stream and read no more than its head."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", daphne.port))
    request = f"GET /events/?group=orders HTTP/{version}\r\nHost: localhost\r\n\r\n"
    connection.sendall(request.encode())
    assert b"200 OK" in connection.recv(15, socket.MSG_WAITALL)
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


def counts(daphne: Daphne) -> Any:
    return run(
        daphne,
        "from dataclasses import asdict\n"
        "from sse_app.counters import COUNTS\n"
        "result = asdict(COUNTS)",
    )


FLOOD = """
from sse_app import publish_many
for n in range({start}, {stop}, 100):
    publish_many([("orders", "n", f"{{m}} " + "x" * {size}) for m in range(n, n + 100)])
"""


async def test_readers_that_never_read_cost_little_and_delay_nobody(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(STREAMS_PER_ANONYMOUS_ADDRESS=None)
    async with daphne.stream("group=orders") as healthy:
        await healthy.next()
        sleepers = [connect(daphne) for _ in range(50)]
        told, before = [], 0
        # 400 MB for the fifty of them together, if it were kept.
        for start in range(0, 4500, 100):
            flood = FLOOD.format(start=start, stop=start + 100, size=2000)
            await asyncio.to_thread(run, daphne, flood)
            told += [event.data.split()[0] for event in await healthy.take(100)]
            before = before or (memory_of(daphne) if start == 500 else 0)
        grown = memory_of(daphne) - before
    assert told == [str(n) for n in range(4500)]
    assert grown < 16 * MIB, f"{grown / MIB:.0f} MiB"
    # And whoever wakes up gets it all, from the log.
    assert counts(daphne)["lagged"] == 50
    caught_up = await asyncio.to_thread(read_until, sleepers[0], "4499 ")
    assert [data.split()[0] for data in caught_up] == [str(n) for n in range(4500)]
    eventually(lambda: counts(daphne)["caught_up"] == 1)
    for sleeper in sleepers:
        sleeper.close()


def test_a_reader_that_takes_nothing_for_too_long_is_let_go(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(STALL_SECONDS=0.5, HEARTBEAT=0.4)
    sleeper = connect(daphne)
    run(daphne, FLOOD.format(start=0, stop=1000, size=2000))

    def streams() -> int:
        return int(httpx.get(f"{daphne.url}/test/streams/").json()["streams"])

    eventually(lambda: streams() == 0, "it is still there")
    assert counts(daphne)["stalled"] == 1
    eventually(lambda: httpx.get(f"{daphne.url}/test/connections/").json()["waiting"] == 0)
    # Not left with what is buffered for it: nobody would ever take that.
    with pytest.raises(ConnectionResetError):
        drain(sleeper)
    sleeper.close()


def test_the_kernel_keeps_little_and_gives_up_on_who_is_gone(daphne: Daphne) -> None:
    connection = connect(daphne)
    options = run(
        daphne,
        "import socket\n"
        "from sse_app.control import readers\n"
        "(reader,) = readers()\n"
        "handle = reader._transport._socket\n"
        "result = [handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),\n"
        "          handle.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)]",
    )
    # Linux doubles what is asked for, for its own book-keeping.
    assert options == [30_000, 2 * 128 * 1024]
    connection.close()


def test_a_client_that_knows_no_chunks_is_served_by_the_ordinary_way(daphne: Daphne) -> None:
    connection = connect(daphne, version="1.0")
    run(daphne, FLOOD.format(start=0, stop=300, size=2000))
    told = read_until(connection, "299 ", chunked=False)
    assert [data.split()[0] for data in told] == [str(n) for n in range(300)]
    connection.close()


async def test_what_is_published_in_one_turn_leaves_in_one_write(daphne: Daphne) -> None:
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        written = await asyncio.to_thread(
            run,
            daphne,
            "from sse_app.daphne_transport import DaphneTransport as T\n"
            "import threading\n"
            "from sse_app import publish_many\n"
            "writes, real, done = [], T._write, threading.Event()\n"
            "def noted(self, chunk):\n"
            "    writes.append(chunk.count(b'\\n\\n'))\n"
            "    real(self, chunk)\n"
            "    if sum(writes) >= 50: done.set()\n"
            "T._write = noted\n"
            "publish_many([('orders', 'n', str(n)) for n in range(50)])\n"
            "done.wait(20)\n"
            "T._write = real\n"
            "result = writes",
        )
        assert [event.data for event in await stream.take(50)] == [str(n) for n in range(50)]
    assert written == [50], json.dumps(written)
