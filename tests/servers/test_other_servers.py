"""The same app on uvicorn, hypercorn and granian, run by the commands that the guide names."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from ..support.other_servers import KINDS, Granian, Hypercorn, Uvicorn, documented
from ..support.servers import FAILED_STREAM, Server, StreamReader, eventually
from ..support.sleepers import (
    MIB,
    MORE_THAN_THE_SYSTEM_KEEPS,
    connect,
    counts,
    drain,
    end_while_stalled,
    flood_past,
    hang_up,
    read_until,
    run,
)

pytestmark = pytest.mark.matrix


#: One of them is tried by `make test`, the others by `make test-slow`.
EACH = [Uvicorn, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
QUEUE_BYTES = 128 * 1024
#: A log with the query, which two of them leave out by default.
ACCESS_LOG: dict[type[Server], list[str]] = {
    Uvicorn: [],
    Hypercorn: ["--access-logfile", "-", "--access-logformat", "%(R)s"],
    Granian: ["--access-log", "--access-log-fmt", "%(path)s?%(query_string)s"],
}
#: Where a test must see that the server ends by itself and is not made to.
PATIENT = {
    Uvicorn: [],
    Hypercorn: ["--graceful-timeout", "60"],
    Granian: ["--interface", "asgi"],
}
of_each_kind = pytest.mark.parametrize("kind", EACH, ids=lambda kind: kind.module)


@pytest.fixture(scope="module", params=EACH, ids=lambda kind: kind.module)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Server]:
    """One server of each kind for the tests that leave nothing behind."""
    folder = tmp_path_factory.mktemp("shared")
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, folder)}", "REDIS_URL": ""}
    options = [*documented(request.param), *ACCESS_LOG[request.param]]
    limits = {"STREAMS_PER_ANONYMOUS_ADDRESS": None, "QUEUE_BYTES": QUEUE_BYTES}
    server = request.param(folder, environment, options=options, HEARTBEAT=0.4, **limits)
    yield server.start()
    server.close()


async def test_a_stream_opens_tells_what_is_published_and_resumes(server: Server) -> None:
    async with server.stream("group=chat.a") as stream:
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (await stream.next()).json()["recovered"] is False
        for how in ("publish", "apublish", "publish-in-thread"):
            await asyncio.to_thread(server.publish, "chat.a", "n", how, how)
            last = await stream.next()
            assert (last.name, last.data) == ("n", how)
        await stream.heartbeat()
    for n in (1, 2, 3):
        server.publish("chat.a", "n", str(n))
    async with server.stream("group=chat.a", {"Last-Event-ID": last.id}) as stream:
        opened, *missed = await stream.take(4)
        assert opened.opening() == {"recovered": True, "missed": 3, "groups": ["chat.a"]}
        assert [event.data for event in missed] == ["1", "2", "3"]


def test_what_is_no_stream_is_answered(server: Server) -> None:
    url = f"{server.url}/events/"
    assert httpx.head(f"{url}?group=clock").headers["content-type"].startswith("text/event-stream")
    assert httpx.options(f"{url}?group=clock").status_code == 204
    assert httpx.post(f"{url}?group=clock").status_code == 405
    assert httpx.get(f"{url}?group=secret").status_code == 403
    assert httpx.get(f"{url}?group=").status_code == 400
    failing = httpx.get(f"{server.url}/test/failing/")
    assert FAILED_STREAM.fullmatch(failing.text)


def test_what_opens_a_stream_is_not_in_the_access_log(server: Server) -> None:
    assert httpx.get(f"{server.url}/events/?grant=opens&group=secret").status_code == 403
    eventually(lambda: "grant=hidden" in server.text(), "it is not logged")
    assert "opens" not in server.text()


def test_the_lifespan_is_known(server: Server) -> None:
    told = [line for line in server.text().splitlines() if "lifespan" in line.lower()]
    assert told == []


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_disconnect_is_noticed(server: Server, how: str) -> None:
    connection = connect(server)
    server.until_streams(1)
    hang_up(connection, how)
    eventually(lambda: server.streams() == 0, "the stream stayed open")


async def test_readers_that_never_read_cost_little_and_delay_nobody(server: Server) -> None:
    async with server.stream("group=orders") as healthy:
        await healthy.next()
        sleepers = [connect(server) for _ in range(20)]
        # Half of the 160 MB is more than the system takes for them.
        kept = await flood_past(server, healthy, 1000, size=8000)
    assert kept < 8 * MIB, f"{kept / MIB:.1f} MiB"
    # What waits for one of them is bounded, and is not only small for being shared by all.
    waiting = run(
        server,
        "from sse_app.operations.reports import streams\n"
        "result = [s._transport._bytes for s in streams()]",
    )
    assert max(waiting) < QUEUE_BYTES + 16 * 1024
    assert counts(server)["lagged"] >= 20
    # And whoever wakes up gets it all, from the log.
    caught_up = await asyncio.to_thread(read_until, sleepers[0], "999 ")
    assert [data.split()[0] for data in caught_up] == [str(n) for n in range(1000)]
    for sleeper in sleepers:
        sleeper.close()
    eventually(lambda: server.streams() == 0, "a stream stayed open")


@of_each_kind
def test_a_reader_that_takes_nothing_for_too_long_is_let_go(
    make_server: Callable[..., Server], kind: type[Server]
) -> None:
    server = make_server(kind, options=PATIENT[kind], STALL_SECONDS=0.5, HEARTBEAT=0.4)
    sleeper = connect(server)
    run(server, MORE_THAN_THE_SYSTEM_KEEPS)
    eventually(lambda: counts(server)["stalled"] == 1, "it is not noticed")
    eventually(lambda: server.streams() == 0, "it is still there")
    if kind is not Granian:  # Nothing leads from its `send` to the connection.
        with pytest.raises(ConnectionResetError):
            drain(sleeper)
    sleeper.close()


@pytest.mark.parametrize("kind", EACH[:2], ids=lambda kind: kind.module)
def test_a_reader_that_takes_nothing_is_not_waited_for_when_its_stream_ends(
    make_server: Callable[..., Server], kind: type[Server]
) -> None:
    server = make_server(kind, options=PATIENT[kind], HEARTBEAT=0.4)
    end_while_stalled(server, connect(server))


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (Uvicorn, signal.SIGTERM),
        (Uvicorn, signal.SIGINT),
        *(pytest.param(kind, signal.SIGTERM, marks=pytest.mark.slow) for kind in KINDS[1:]),
    ],
    ids=lambda value: getattr(value, "module", None) or value.name,
)
async def test_a_server_that_stops_says_farewell_and_clients_go_on_from_there(
    make_server: Callable[..., Server], kind: type[Server], how: signal.Signals
) -> None:
    server = make_server(kind, options=PATIENT[kind], HEARTBEAT=0.4)
    sleepers = [] if kind is Granian else [connect(server)]  # It waits for them: see below.
    run(server, MORE_THAN_THE_SYSTEM_KEEPS)
    async with AsyncExitStack() as stack:
        streams: list[StreamReader] = []
        for _ in range(20):
            streams.append(await stack.enter_async_context(server.stream("group=orders")))
            await streams[-1].next()
        await asyncio.to_thread(server.stop, how)
        ends = [await stream.until_end() for stream in streams]
    for stream, (*_, last) in zip(streams, ends, strict=True):
        assert (last.name, last.json()) == ("sse.close", {"reason": "shutdown"})
        assert 1000 <= (stream.parser.retry or 0) <= 10_000
    for sleeper in sleepers:
        sleeper.close()
    await asyncio.to_thread(server.start)
    server.publish("orders", "n", "after")
    async with server.stream("group=orders", {"Last-Event-ID": last.id}) as stream:
        assert [event.data for event in (await stream.take(2))[1:]] == ["after"]


@of_each_kind
def test_the_documented_command_ends_whatever_is_open(
    make_server: Callable[..., Server], kind: type[Server]
) -> None:
    quick = [re.sub(r"^\d+$", "1", option) for option in documented(kind)]
    assert quick != documented(kind)
    server = make_server(kind, options=quick, HEARTBEAT=0.4)
    sleeper = connect(server)
    run(server, MORE_THAN_THE_SYSTEM_KEEPS)
    half = socket.create_connection(("127.0.0.1", server.port))
    if kind is not Hypercorn or sys.version_info < (3, 12):  # There it waits for ever.
        half.sendall(b"POST /events/send/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
    server.stop()
    half.close()
    sleeper.close()
