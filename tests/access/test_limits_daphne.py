"""Limits and CORS over real Daphne processes: refused politely, and given back however one goes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ..support.parser import Parser
from ..support.patience import PATIENCE
from ..support.raw_http import Connection, Request, pairs
from ..support.servers import Daphne, eventually

ALLOWED = "https://www.example.com"
LIMITS = {
    "STREAMS_PER_SESSION": 2,
    "STREAMS_PER_USER": 3,
    "STREAMS_PER_ANONYMOUS_ADDRESS": 2,
    "STREAMS_PER_ADDRESS": 4,
    "STREAMS_PER_PROCESS": 6,
}
ENDS: dict[str, Callable[[Connection], None]] = {"FIN": Connection.close, "RST": Connection.reset}
SHORT_LEASE = (
    "from sse_app.access import limits_redis as of; of.LEASE_SECONDS, of.RENEW_SECONDS = 1.0, 0.3"
)


class Visitors:
    """Streams that stay open, of visitors behind a trusted proxy."""

    def __init__(self, *daphnes: Daphne) -> None:
        self.daphnes = daphnes
        self.streams: list[Connection] = []

    def sign_in(self, name: str) -> str:
        """Return the key of a new session of the user."""
        answer = httpx.post(
            f"{self.daphnes[0].url}/test/login/", data={"name": name}, timeout=PATIENCE
        )
        return answer.cookies["sessionid"]

    def open(self, address: str, session: str = "", at: int = 0) -> str:
        """Ask for a stream; return "open", or the reason why it is refused for now."""
        headers = [("X-Forwarded-For", address)]
        if session:
            headers.append(("Cookie", f"sessionid={session}"))
        stream = Connection(self.daphnes[at].port)
        asked = Request(target=b"/events/?group=clock", headers=pairs(headers))
        answer = stream.ask(asked, keep=True)
        assert answer is not None
        assert answer.status == 200
        self.streams.append(stream)
        parser = Parser()
        parser.feed(answer.body)
        (event,) = parser.events
        if event.name == "sse.open":
            return "open"
        assert event.name == "sse.busy"
        assert 15_000 <= (parser.retry or 0) <= 60_000
        return str(event.json()["reason"])

    def leave(self, end: Callable[[Connection], None]) -> None:
        for stream in self.streams:
            end(stream)
        self.streams.clear()

    def counts(self, at: int = 0) -> Any:
        return httpx.get(f"{self.daphnes[at].url}/test/counts/", timeout=PATIENCE).json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daphne]:
    folder = tmp_path_factory.mktemp("limits")
    environment = {"DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}", "REDIS_URL": ""}
    daphne = Daphne(folder, environment, TRUSTED_PROXIES=["127.0.0.1"], **LIMITS)
    daphne.manage("migrate", "--verbosity", "0")
    yield daphne.start()
    daphne.close()


@pytest.fixture(params=list(ENDS))
def visitors(server: Daphne, request: pytest.FixtureRequest) -> Iterator[Visitors]:
    """Visitors who all leave in the same way, after which nothing may be counted."""
    visitors = Visitors(server)
    yield visitors
    visitors.leave(ENDS[request.param])
    eventually(lambda: visitors.counts() == {}, "places are still taken")


def test_a_session_has_so_many_streams(visitors: Visitors) -> None:
    session, other = visitors.sign_in("ann"), visitors.sign_in("bob")
    told = [visitors.open("203.0.113.1", session) for _ in range(3)]
    assert told == ["open", "open", "session"]
    assert visitors.open("203.0.113.1", other) == "open"


def test_a_user_has_so_many_streams_over_all_sessions(visitors: Visitors) -> None:
    sessions = [visitors.sign_in("ann") for _ in range(4)]
    told = [visitors.open(f"203.0.113.{n}", session) for n, session in enumerate(sessions)]
    assert told == ["open", "open", "open", "user"]


def test_strangers_share_the_places_of_their_address(visitors: Visitors) -> None:
    told = [visitors.open("203.0.113.1") for _ in range(3)]
    assert told == ["open", "open", "address"]
    assert visitors.open("203.0.113.2") == "open"
    assert visitors.open("198.51.100.9, 203.0.113.1") == "address", "what the client made up"


def test_the_neighbours_in_a_v6_network_are_one(visitors: Visitors) -> None:
    told = [visitors.open(f"2001:db8::{n}") for n in range(3)]
    assert told == ["open", "open", "address"]
    assert visitors.open("2001:db8:0:1::1") == "open"


def test_an_address_has_so_many_streams_of_visitors_with_sessions(visitors: Visitors) -> None:
    sessions = [visitors.sign_in(f"user{n}") for n in range(5)]
    told = [visitors.open("203.0.113.1", session) for session in sessions]
    assert told == ["open"] * 4 + ["address"]


def test_a_process_has_so_many_streams(visitors: Visitors) -> None:
    told = [visitors.open(f"203.0.113.{n}") for n in range(7)]
    assert told == ["open"] * 6 + ["process"]


def test_a_place_that_was_given_back_can_be_taken_again(visitors: Visitors) -> None:
    for _ in range(3):
        told = [visitors.open("203.0.113.1") for _ in range(3)]
        assert told == ["open", "open", "address"]
        visitors.leave(Connection.reset)
        eventually(lambda: visitors.counts() == {})


def test_two_processes_count_together_and_a_killed_one_leaves_its_places(
    make_daphne: Callable[..., Daphne], valkey: str
) -> None:
    limits = {"STREAMS_PER_ANONYMOUS_ADDRESS": 3, "TRUSTED_PROXIES": ["127.0.0.1"]}
    visitors = Visitors(*(make_daphne({"REDIS_URL": valkey}, **limits) for _ in range(2)))
    for daphne in visitors.daphnes:
        httpx.post(f"{daphne.url}/test/run/", data={"code": SHORT_LEASE}, timeout=PATIENCE)
    address = "203.0.113.200"
    assert [visitors.open(address, at=n) for n in (0, 0, 1)] == ["open"] * 3
    assert [visitors.open(address, at=n) for n in (0, 1)] == ["address"] * 2
    visitors.daphnes[0].stop(signal.SIGKILL)
    eventually(lambda: visitors.open(address, at=1) == "open", "the dead are counted")
    assert visitors.open(address, at=1) == "open"
    assert visitors.open(address, at=1) == "address"
    visitors.leave(Connection.close)
    eventually(lambda: visitors.counts(at=1) == {})


# --- other origins ---


def cors_of(answer: httpx.Response) -> dict[str, str]:
    return {
        name: value
        for name, value in answer.headers.items()
        if name.startswith("access-control") or name == "vary"
    }


def ask(daphne: Daphne, origin: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Ask as a page of `origin` would; of a stream only the head is read."""
    url = f"{daphne.url}/events/?group=clock"
    given = {"Origin": origin, "Sec-Fetch-Site": "cross-site", **headers}
    with httpx.stream(method, url, headers=given, timeout=PATIENCE) as answer:
        return answer


PREFLIGHT = {
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "last-event-id",
}


def test_without_configuration_no_other_origin_may_ask(server: Daphne) -> None:
    for origin in (ALLOWED, "null", server.url.replace("127.0.0.1", "localhost")):
        answer = ask(server, origin)
        assert (answer.status_code, cors_of(answer)) == (403, {})
        assert cors_of(ask(server, origin, "OPTIONS", **PREFLIGHT)) == {}


def test_only_the_exact_origin_that_is_configured_may_ask(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(ALLOWED_ORIGINS=[ALLOWED])
    permitted = {
        "vary": "Origin",
        "access-control-allow-origin": ALLOWED,
        "access-control-allow-credentials": "true",
    }
    answer = ask(daphne, ALLOWED)
    assert (answer.status_code, cors_of(answer)) == (200, permitted)
    for near in (f"{ALLOWED}.evil.example", "http://www.example.com", f"{ALLOWED}:444", "null"):
        answer = ask(daphne, near)
        assert (answer.status_code, cors_of(answer)) == (403, {"vary": "Origin"})
        refused = ask(daphne, near, "OPTIONS", **PREFLIGHT)
        assert (refused.status_code, cors_of(refused)) == (403, {"vary": "Origin"})
    preflight = ask(daphne, ALLOWED, "OPTIONS", **PREFLIGHT)
    assert preflight.status_code == 204
    told = cors_of(preflight)
    assert told.items() >= permitted.items()
    assert told["access-control-allow-methods"] == "GET"
    assert "last-event-id" in told["access-control-allow-headers"].lower()
