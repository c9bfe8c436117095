"""Streams on Daphne by another way than plain HTTP/1.1: TLS, HTTP/2, `runserver`."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ..support.certificates import make_certificate
from ..support.patience import PATIENCE
from ..support.servers import Daphne, Server, StreamReader
from ..support.sleepers import FLOOD, MIB, connect, counts, flood_past, read_until, run
from ..support.valkeys import free_port

TRANSPORTS = (
    "from sse_app.operations.reports import streams\n"
    "result = [[type(s._transport).__name__, s._transport._tcp is None] for s in streams()]"
)

NOTE_REASONS = """
import sys
from sse_app.signals import stream_closed
def note(stream, **kwargs):
    note.reasons.append(stream.close_reason)
note.reasons = sys.noted = []
stream_closed.connect(note, weak=False)
result = None
"""


async def left(server: Server) -> None:
    """Wait until a stream has ended; Daphne makes it so after ten seconds by force."""
    await asyncio.to_thread(server.until_streams, 0)
    reasons = await asyncio.to_thread(run, server, "import sys\nresult = sys.noted")
    assert reasons
    assert set(reasons) <= {"disconnect", "broken"}


class TlsDaphne(Daphne):
    """Listens with TLS too, where HTTP/2 is spoken with who offers it."""

    def where(self) -> list[str]:
        certificate, key = make_certificate(self.log.parent)
        self.secure = free_port()
        where = f"ssl:port={self.secure}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        return [*super().where(), "-e", where]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[TlsDaphne]:
    folder = tmp_path_factory.mktemp("secure")
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, folder)}", "REDIS_URL": ""}
    # No heartbeat may be what finds out that a client has gone.
    server = TlsDaphne(folder, environment, HEARTBEAT=600, STREAMS_PER_ANONYMOUS_ADDRESS=None)
    run(server.start(), NOTE_REASONS)
    yield server
    server.close()


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_over_tls_a_stream_is_heard_left_and_resumed(secure: TlsDaphne, version: str) -> None:
    url = f"https://localhost:{secure.secure}/events/?group=chat.tls"
    last = ""
    for n in range(2):
        async with httpx.AsyncClient(
            http2=version == "HTTP/2", verify=False, timeout=PATIENCE
        ) as client:
            headers = {"Last-Event-ID": last} if last else {}
            async with client.stream("GET", url, headers=headers) as response:
                assert response.http_version == version
                stream = StreamReader(response)
                assert (await stream.next()).json()["recovered"] is bool(last)
                # By the ordinary way: the socket has more to it than these bytes.
                assert run(secure, TRANSPORTS) == [["DaphneTransport", True]]
                await asyncio.to_thread(secure.publish, "chat.tls", "n", str(n))
                event = await stream.next()
                assert event.data == str(n)
                last = event.id
        await left(secure)


async def test_over_tls_a_reader_that_sleeps_costs_little_and_catches_up(
    secure: TlsDaphne,
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(PATIENCE)
    raw.connect(("127.0.0.1", secure.secure))
    with context.wrap_socket(raw) as sleeper:
        sleeper.sendall(b"GET /events/?group=orders HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in sleeper.recv(15)
        async with secure.stream("group=orders") as healthy:
            await healthy.next()
            # Twenty times what may wait for it, if that were kept.
            kept = await flood_past(secure, healthy, 5000, size=4000)
        assert kept < 8 * MIB, f"{kept / MIB:.1f} MiB"
        told = counts(secure)
        assert told["lagged"] - told["caught_up"] == 1
        caught_up = await asyncio.to_thread(read_until, sleeper, "4999 ")
        assert [data.split()[0] for data in caught_up] == [str(n) for n in range(5000)]
    await left(secure)


async def test_over_http_2_a_reader_that_takes_nothing_for_too_long_is_let_go(
    tmp_path: Path, migrated: Path
) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, tmp_path)}", "REDIS_URL": ""}
    server = TlsDaphne(tmp_path, environment, HEARTBEAT=0.4, STALL_SECONDS=0.5).start()
    try:
        url = f"https://localhost:{server.secure}/events/?group=orders"
        async with (
            httpx.AsyncClient(http2=True, verify=False, timeout=PATIENCE) as client,
            client.stream("GET", url) as response,
        ):
            assert response.http_version == "HTTP/2"
            await asyncio.to_thread(run, server, FLOOD.format(start=0, stop=1000, size=40_000))
            await asyncio.to_thread(server.until_streams, 0)
            assert counts(server)["stalled"] == 1
        # The others of the process have what is theirs.
        async with server.stream("group=orders") as stream:
            assert (await stream.next()).name == "sse.open"
            await stream.heartbeat()
    finally:
        server.close()


class RunServer(Server):
    """Django's own command, which Daphne replaces as it is in `INSTALLED_APPS`."""

    module = "runserver"

    def listen(self) -> socket.socket:
        freed = socket.create_server(("127.0.0.1", 0))
        port = freed.getsockname()[1]
        freed.close()
        self.where_to = f"127.0.0.1:{port}"
        return _Closed(port)  # type: ignore[return-value]

    def command(self) -> list[str]:
        return [sys.executable, "manage.py", "runserver", self.where_to, "--noreload"]


class _Closed:
    """The address of a socket that is no more: this command takes none."""

    def __init__(self, port: int) -> None:
        self.port = port

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def fileno(self) -> int:
        return 2

    def close(self) -> None:
        pass


async def test_runserver_streams_straight_to_the_socket(tmp_path: Path, migrated: Path) -> None:
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, tmp_path)}", "REDIS_URL": ""}
    server = RunServer(tmp_path, environment, HEARTBEAT=600).start()
    run(server, NOTE_REASONS)
    try:
        async with server.stream("group=orders") as stream:
            await stream.next()
            assert run(server, TRANSPORTS) == [["DaphneTransport", False]]
            await asyncio.to_thread(server.publish, "orders", "n", "1")
            assert (await stream.next()).data == "1"
        await left(server)
        connect(server).close()
        await left(server)
    finally:
        server.stop()
