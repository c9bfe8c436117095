"""Limits, and the daphne options they depend on, over real servers."""

from __future__ import annotations

import errno
import signal
import socket
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from ..support.parser import Parsed, Parser
from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.valkeys import Valkey

#: From Linux's tcp.h: a socket in repair mode is closed without a word to the other side.
TCP_REPAIR = 19
STREAM = "/events/?group=clock"


class Visitor:
    """A client with its cookies, which holds streams until they are closed."""

    def __init__(self, daphne: Daphne, name: str = "", address: str = "") -> None:
        headers = {"X-Forwarded-For": address} if address else {}
        self.client = httpx.Client(base_url=daphne.url, timeout=PATIENCE, headers=headers)
        self.held: list[ExitStack] = []
        if name:
            self.client.post("/test/login/", data={"name": name})

    def open(self) -> str:
        """Open a stream and return its first event, or why there is none; keep it if it is one.

        Comes again, as a browser does, if the news of a sign-in arrived meanwhile.
        """
        return str(eventually(lambda: (told := self._open()) != "revoked" and told))

    def _open(self) -> str:
        with ExitStack() as stack:
            answer = stack.enter_context(self.client.stream("GET", STREAM))
            assert answer.status_code == 200
            parser = Parser()
            chunks = cast(Generator[bytes, None, None], answer.iter_raw())
            stack.callback(chunks.close)  # Held too: what is collected closes the connection.
            while not parser.events:
                parser.feed(next(chunks))
            first: Parsed = parser.events[0]
            if first.name != "sse.busy":
                self.held.append(stack.pop_all())
                return first.name
            assert 15_000 <= (parser.retry or 0) <= 60_000
            assert list(chunks) == []
            return str(first.json()["reason"])

    def leave(self) -> None:
        """Close the stream that was opened first."""
        self.held.pop(0).close()

    def close(self) -> None:
        while self.held:
            self.leave()
        self.client.close()


@pytest.fixture
def visit() -> Iterator[Callable[..., Visitor]]:
    """Make visitors; in the end they leave."""
    made: list[Visitor] = []

    def visit(daphne: Daphne, name: str = "", address: str = "") -> Visitor:
        made.append(Visitor(daphne, name, address))
        return made[-1]

    yield visit
    for visitor in made:
        visitor.close()


def run(daphne: Daphne, code: str) -> Any:
    """Execute code in the server's process."""
    answer = httpx.post(f"{daphne.url}/test/run/", data={"code": code}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text[:300]
    return answer.json()["result"]


def counts(daphne: Daphne) -> dict[str, int]:
    found = run(daphne, "from sse_app.access.limits import LIMITS; result = dict(LIMITS.counts)")
    assert isinstance(found, dict)
    return found


def until_empty(*servers: Daphne) -> None:
    eventually(lambda: not any(map(counts, servers)), "a place was not given back")


# --- one process ---


def test_each_limit_asks_the_one_too_many_to_come_again(
    make_daphne: Callable[..., Daphne], visit: Callable[..., Visitor]
) -> None:
    daphne = make_daphne(
        STREAMS_PER_SESSION=1,
        STREAMS_PER_USER=2,
        STREAMS_PER_ADDRESS=4,
        STREAMS_PER_ANONYMOUS_ADDRESS=1,
        STREAMS_PER_PROCESS=6,
        TRUSTED_PROXIES=["127.0.0.1"],
    )
    at_home = [visit(daphne, "ann", "9.9.9.9") for _ in range(3)]
    assert [visitor.open() for visitor in at_home] == ["sse.open", "sse.open", "user"]
    assert at_home[0].open() == "session"
    bobs = [visit(daphne, name, "9.9.9.9") for name in ("bob", "carol", "dora")]
    assert [visitor.open() for visitor in bobs] == ["sse.open", "sse.open", "address"]
    strangers = [visit(daphne, "", address) for address in ("9.9.9.9", "9.9.9.9", "8.8.8.8")]
    assert [visitor.open() for visitor in strangers] == ["sse.open", "address", "sse.open"]
    assert visit(daphne, "", "7.7.7.7").open() == "process"
    at_home[0].leave()
    eventually(lambda: at_home[2].open() == "sse.open", "the place was not free again")
    for visitor in (*at_home, *bobs, *strangers):
        visitor.close()
    until_empty(daphne)


def test_what_a_client_says_of_its_address_is_not_believed(
    make_daphne: Callable[..., Daphne], visit: Callable[..., Visitor]
) -> None:
    daphne = make_daphne(STREAMS_PER_ANONYMOUS_ADDRESS=1, TRUSTED_PROXIES=["127.0.0.1"])
    made_up = (f"{n}.{n}.{n}.{n}, 9.9.9.9" for n in range(1, 4))
    visitors = [visit(daphne, "", address) for address in made_up]
    assert [visitor.open() for visitor in visitors] == ["sse.open", "address", "address"]


def test_behind_a_proxy_that_nobody_named_addresses_are_not_limited(
    make_daphne: Callable[..., Daphne], visit: Callable[..., Visitor]
) -> None:
    daphne = make_daphne(STREAMS_PER_ANONYMOUS_ADDRESS=1)
    assert [visit(daphne).open() for _ in range(3)] == ["sse.open"] * 3


def test_limits_are_asked_before_the_database(
    make_daphne: Callable[..., Daphne], visit: Callable[..., Visitor]
) -> None:
    daphne = make_daphne(
        STREAMS_PER_SESSION=None, STREAMS_PER_ADDRESS=1, TRUSTED_PROXIES=["127.0.0.1"]
    )
    ann = visit(daphne, "ann", "9.9.9.9")
    assert ann.open() == "sse.open"
    daphne.shell(
        "from django.db import connection\n"
        "connection.cursor().execute('ALTER TABLE django_session RENAME TO away')"
    )
    assert ann.open() == "address"
    ann.client.headers["X-Forwarded-For"] = "8.8.8.8"
    assert ann.open() == "store"  # The session was looked for, and is not there.
    ann.leave()
    until_empty(daphne)


def connect(daphne: Daphne, request: bytes = b"") -> socket.socket:
    """Open a stream on a bare socket, and return when it is counted."""
    before = counts(daphne).get("process", 0)
    connection = socket.create_connection(("127.0.0.1", daphne.port))
    connection.sendall(request or f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b"200 OK" in connection.recv(4096)
    assert counts(daphne)["process"] == before + 1
    return connection


def fin(connection: socket.socket) -> None:
    connection.close()


def rst(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def silence(connection: socket.socket) -> None:
    """Be gone without a packet, as a machine that lost its power."""
    try:
        connection.setsockopt(socket.SOL_TCP, TCP_REPAIR, 1)
    except OSError as error:
        if error.errno == errno.EPERM:
            pytest.skip("only root may close a socket in silence")
        raise
    connection.close()


@pytest.mark.parametrize("leave", [fin, rst, silence])
def test_the_counters_return_to_zero_however_a_client_goes(
    make_daphne: Callable[..., Daphne], leave: Callable[[socket.socket], None]
) -> None:
    daphne = make_daphne(HEARTBEAT=0.4, TRUSTED_PROXIES=["127.0.0.1"])
    connections = [connect(daphne) for _ in range(3)]
    assert counts(daphne) == {"process": 3, "anonymous:127.0.0.1": 3}
    for connection in connections:
        leave(connection)
    until_empty(daphne)


def test_a_client_that_goes_before_its_stream_opened_leaves_nothing(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(
        HEARTBEAT=0.4, TRUSTED_PROXIES=["127.0.0.1"], MAY_LISTEN="tests.policies.slow"
    )
    request = b"GET /events/?group=slow.1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for leave in (fin, rst):
        connection = socket.create_connection(("127.0.0.1", daphne.port))
        connection.sendall(request)
        eventually(lambda: counts(daphne).get("process") == 1)
        leave(connection)
        until_empty(daphne)


def test_a_refused_client_counts_nothing(daphne: Daphne) -> None:
    for query, status in (("group=secret", 403), ("", 400), ("group=clock&event=a%20b", 400)):
        assert httpx.get(f"{daphne.url}/events/?{query}").status_code == status
    assert httpx.options(f"{daphne.url}{STREAM}").status_code == 204
    assert httpx.head(f"{daphne.url}{STREAM}").status_code == 200
    until_empty(daphne)


# --- several processes and one Redis ---


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey").start()
    yield server
    server.kill()


QUICK = """
from sse_app.access import limits_redis
limits_redis.LEASE_SECONDS, limits_redis.RENEW_SECONDS = 1.0, 0.1
"""


@pytest.fixture
def pair(
    make_daphne: Callable[..., Daphne], redis_server: Valkey
) -> Callable[..., tuple[Daphne, Daphne]]:
    """Start two servers that share a Redis, with these limits and quick leases."""

    def pair(**sse_app: Any) -> tuple[Daphne, Daphne]:
        environment = {"REDIS_URL": redis_server.url}
        here, there = (make_daphne(environment, HEARTBEAT=0.4, **sse_app) for _ in range(2))
        for daphne in (here, there):
            run(daphne, QUICK)
        return here, there

    return pair


@pytest.mark.slow
def test_two_servers_count_users_sessions_and_addresses_together(
    pair: Callable[..., tuple[Daphne, Daphne]], visit: Callable[..., Visitor]
) -> None:
    here, there = pair(
        STREAMS_PER_SESSION=2,
        STREAMS_PER_USER=3,
        STREAMS_PER_ADDRESS=4,
        TRUSTED_PROXIES=["127.0.0.1"],
    )
    ann = visit(here, "ann", "9.9.9.9")
    same = visit(there, "", "9.9.9.9")
    same.client.cookies.update(ann.client.cookies)
    assert [ann.open(), same.open(), ann.open(), same.open()] == [
        *("sse.open", "sse.open"),
        *("session", "session"),
    ]
    again, other = visit(here, "ann", "9.9.9.9"), visit(there, "ann", "9.9.9.9")
    assert [other.open(), again.open()] == ["sse.open", "user"]
    assert [visit(there, name, "9.9.9.9").open() for name in ("bob", "carol")] == [
        *("sse.open", "address"),
    ]
    ann.leave()
    eventually(lambda: again.open() == "sse.open", "the place was not free again")


@pytest.mark.slow
def test_the_places_of_a_killed_server_are_free_after_its_lease(
    pair: Callable[..., tuple[Daphne, Daphne]], visit: Callable[..., Visitor]
) -> None:
    here, there = pair(STREAMS_PER_USER=2)
    killed, living = visit(here, "ann"), visit(there, "ann")
    assert [killed.open(), killed.open(), living.open()] == ["sse.open", "sse.open", "user"]
    here.stop(signal.SIGKILL)
    eventually(lambda: living.open() == "sse.open", "a killed server is counted for ever")
    assert living.open() == "sse.open"
    assert living.open() == "user"


def test_the_places_of_a_stopped_server_are_free_at_once(
    pair: Callable[..., tuple[Daphne, Daphne]], visit: Callable[..., Visitor]
) -> None:
    here, there = pair(STREAMS_PER_USER=1)
    for daphne in (here, there):
        run(daphne, QUICK.replace("1.0, 0.1", "3600.0, 0.1"))
    assert visit(here, "ann").open() == "sse.open"
    living = visit(there, "ann")
    assert living.open() == "user"
    here.stop()
    assert living.open() == "sse.open"


@pytest.mark.slow
def test_without_redis_nobody_is_refused_and_each_server_counts_alone(
    pair: Callable[..., tuple[Daphne, Daphne]],
    visit: Callable[..., Visitor],
    redis_server: Valkey,
) -> None:
    here, there = pair(STREAMS_PER_USER=2)
    ann, same = visit(here, "ann"), visit(there, "ann")
    assert ann.open() == "sse.open"
    redis_server.kill()
    assert [ann.open(), ann.open()] == ["sse.open", "user"]
    assert [same.open(), same.open(), same.open()] == ["sse.open", "sse.open", "user"]
    eventually(lambda: here.text().count("this process counts alone") == 1)
    redis_server.start()
    eventually(lambda: "counts the streams of all processes again" in here.text())
    eventually(lambda: "counts the streams of all processes again" in there.text())
    ann.leave()
    same.leave()
    eventually(lambda: [counts(daphne)["process"] for daphne in (here, there)] == [1, 1])
    assert [ann.open(), same.open()] == ["user", "user"]
    for visitor in (ann, same):
        visitor.close()
    until_empty(here, there)
    assert here.text().count("this process counts alone") == 1


# --- options of the server ---


def test_a_daphne_that_ends_streams_by_the_clock_says_so_with_its_first_request(
    make_daphne: Callable[..., Daphne],
) -> None:
    told = make_daphne(options=["--http-timeout", "60", "--proxy-headers"])
    eventually(lambda: "--http-timeout 60" in told.text())
    assert "--proxy-headers" in told.text()
    with suppress(httpx.HTTPError):
        httpx.get(f"{told.url}/test/streams/")
    assert told.text().count("--http-timeout") == 1
    quiet = make_daphne()
    assert "Daphne runs with" not in quiet.text()
