"""A slow or dead reader costs a bounded amount of memory and delays nobody else, on real Daphne."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from ..support.servers import Daphne, eventually
from ..support.sleepers import (
    FLOOD,
    MIB,
    connect,
    counts,
    drain,
    end_while_stalled,
    flood_past,
    read_until,
    run,
)


@pytest.mark.slow
async def test_readers_that_never_read_cost_little_and_delay_nobody(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(STREAMS_PER_ANONYMOUS_ADDRESS=None)
    async with daphne.stream("group=orders") as healthy:
        await healthy.next()
        sleepers = [connect(daphne) for _ in range(50)]
        # 400 MB for the fifty of them together, if it were kept.
        kept = await flood_past(daphne, healthy, 4500)
    assert kept < 8 * MIB, f"{kept / MIB:.1f} MiB"
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
    eventually(lambda: daphne.streams() == 0, "it is still there")
    assert counts(daphne)["stalled"] == 1
    eventually(lambda: httpx.get(f"{daphne.url}/test/connections/").json()["waiting"] == 0)
    # Not left with what is buffered for it: nobody would ever take that.
    with pytest.raises(ConnectionResetError):
        drain(sleeper)
    sleeper.close()


def test_a_reader_that_takes_nothing_is_not_waited_for_when_its_stream_ends(
    daphne: Daphne,
) -> None:
    end_while_stalled(daphne, connect(daphne))


def test_the_kernel_keeps_little_and_gives_up_on_who_is_gone(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(STALL_SECONDS=30)
    connection = connect(daphne)
    options = run(
        daphne,
        "import socket\n"
        "from sse_app.operations.reports import streams\n"
        "(stream,) = streams()\n"
        "handle = stream._transport._socket\n"
        "result = [handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),\n"
        "          handle.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)]",
    )
    # Linux doubles what is asked for, for its own book-keeping.
    assert options == [30_000, 2 * 128 * 1024]
    connection.close()


def test_a_client_that_knows_no_chunks_is_served_by_the_ordinary_way(daphne: Daphne) -> None:
    connection = connect(daphne, version="1.0")
    begun = b""
    while b"sse.open" not in begun:
        begun += connection.recv(4096)
    assert begun.partition(b"\r\n\r\n")[2].startswith(b"retry: "), "no size of a chunk"
    connection.close()
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
            "from sse_app.delivery.transports.daphne import DaphneTransport as T\n"
            "import threading\n"
            "from sse_app import publish_many\n"
            "writes, real, done = [], T._write, threading.Event()\n"
            "def noted(self, chunk):\n"
            "    writes.append(chunk.count(b'\\n\\n'))\n"
            "    real(self, chunk)\n"
            "    if sum(writes) >= 50: done.set()\n"
            "T._write = noted\n"
            "publish_many([('orders', 'n', str(n)) for n in range(50)])\n"
            "done.wait(60)\n"
            "T._write = real\n"
            "result = writes",
        )
        assert [event.data for event in await stream.take(50)] == [str(n) for n in range(50)]
    assert written == [50], json.dumps(written)
