"""The configurations of `docs/operations/deploy.md`, run: nginx and Caddy before two Daphne
processes.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from ..support.parser import Parser
from ..support.patience import PATIENCE
from ..support.proxies import Caddy, Nginx, OwnPort, Proxy
from ..support.servers import Server, StreamReader, eventually

pytestmark = pytest.mark.proxy

CLIENTS = 200


@dataclass
class Site:
    proxy: Proxy
    daphnes: list[OwnPort]


@pytest.fixture(params=[Nginx, Caddy], ids=lambda kind: kind.language)
def site(
    request: pytest.FixtureRequest, tmp_path: Path, make_server: Callable[..., Server]
) -> Iterator[Site]:
    options = {
        "HEARTBEAT": 0.4,
        "STREAMS_PER_ANONYMOUS_ADDRESS": None,
        "TRUSTED_PROXIES": ["127.0.0.1"],
    }
    daphnes = [make_server(OwnPort, **options) for _ in range(2)]
    proxy = request.param(tmp_path, daphnes).start()
    yield Site(proxy, daphnes)
    proxy.stop()


@dataclass
class Follower:
    """What a browser's `EventSource` does; it gives up for good where a browser would."""

    seen: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    opened: int = 0
    gave_up: str = ""
    resets: int = 0

    async def follow(self, client: httpx.AsyncClient, url: str) -> None:
        parser = Parser()
        retry = 1.0
        while True:
            headers = {"Last-Event-ID": parser.last_id} if parser.last_id else {}
            parser = Parser(last_id=parser.last_id, _id=parser.last_id)
            try:
                async with client.stream("GET", url, headers=headers) as response:
                    kind = response.headers.get("content-type", "")
                    if response.status_code != 200 or not kind.startswith("text/event-stream"):
                        self.gave_up = f"{response.status_code} {kind}"
                        return
                    async for chunk in response.aiter_raw():
                        parser.feed(chunk)
                        self._take(parser)
            except httpx.TransportError:
                pass
            retry = retry if parser.retry is None else parser.retry / 1000
            await asyncio.sleep(retry)

    def _take(self, parser: Parser) -> None:
        for event in parser.events:
            if event.name == "n":
                self.seen.append(event.data)
            if event.name == "sse.busy":
                self.busy.append(event.json()["reason"])
            self.opened += event.name == "sse.open"
            self.resets += event.name == "sse.reset"
        parser.events.clear()


class Crowd:
    """Followers of one group, each with a connection of its own."""

    def __init__(self, site: Site, count: int) -> None:
        self.followers = [Follower() for _ in range(count)]
        self._url = f"{site.proxy.url}/events/?group=orders"

    async def __aenter__(self) -> Crowd:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(verify=False, limits=limits, timeout=PATIENCE)
        self._tasks = [
            asyncio.create_task(one.follow(self._client, self._url)) for one in self.followers
        ]
        await self.until(lambda one: one.opened > 0, "not all have opened")
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def until(self, check: Callable[[Follower], bool], what: str) -> None:
        def done() -> bool:
            assert not any(one.gave_up for one in self.followers), self.followers[0].gave_up
            return all(map(check, self.followers))

        try:
            await asyncio.to_thread(eventually, done, what, PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.followers}") from error


async def publish(daphne: OwnPort, texts: list[str]) -> None:
    for text in texts:
        await asyncio.to_thread(daphne.publish, "orders", "n", text)


async def test_what_is_written_comes_through_at_once_and_heartbeats_too(site: Site) -> None:
    for http2 in (True, False):
        async with (
            httpx.AsyncClient(http2=http2, verify=False, timeout=PATIENCE) as client,
            client.stream("GET", f"{site.proxy.url}/events/?group=orders") as response,
        ):
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            stream = StreamReader(response)
            assert (await stream.next()).name == "sse.open"
            for n in range(3):
                await publish(site.daphnes[n % 2], [str(n)])
                assert (await stream.next()).data == str(n)
            await stream.heartbeat()
            await stream.heartbeat()


@pytest.mark.slow
async def test_a_rolling_restart_under_many_clients_loses_nothing(site: Site) -> None:
    one, other = site.daphnes
    async with Crowd(site, CLIENTS) as crowd:
        await publish(one, ["0", "1"])
        for restarted, stays in ((one, other), (other, one)):
            await asyncio.to_thread(restarted.stop)
            await publish(stays, [str(n) for n in range(2, 5)])
            await asyncio.to_thread(restarted.start)
            await crowd.until(lambda follower: len(follower.seen) >= 5, "something is missing")
            for follower in crowd.followers:
                assert follower.seen == ["0", "1", "2", "3", "4"]
                follower.seen = ["0", "1"]
        assert sum(follower.resets for follower in crowd.followers) == 0
        assert all(follower.opened >= 2 for follower in crowd.followers)


@pytest.mark.slow
async def test_a_restart_of_the_only_server_loses_nothing_either(site: Site) -> None:
    """Nobody is there for a while: with 502 a browser would never come back."""
    only, other = site.daphnes
    await asyncio.to_thread(other.stop)
    async with Crowd(site, 20) as crowd:
        await publish(only, ["0"])
        await crowd.until(lambda follower: len(follower.seen) == 1, "the first is missing")
        await asyncio.to_thread(only.stop)
        only.shell("from sse_app import publish\npublish('orders', 'n', '1')")
        await crowd.until(
            lambda follower: "proxy" in follower.busy, "not all have been told to wait"
        )
        await asyncio.to_thread(only.start)
        await publish(only, ["2"])
        await crowd.until(lambda follower: len(follower.seen) >= 3, "something is missing")
        assert all(follower.seen == ["0", "1", "2"] for follower in crowd.followers)
        assert sum(follower.resets for follower in crowd.followers) == 0


def test_a_crowd_that_comes_at_once_is_let_in(make_server: Callable[..., Server]) -> None:
    """More than Daphne's own backlog, while it has no time to take anybody."""
    daphne = make_server(OwnPort)
    assert daphne.process is not None
    daphne.process.send_signal(signal.SIGSTOP)
    address = ("127.0.0.1", daphne.own_port)
    with ExitStack() as crowd:
        crowd.callback(daphne.process.send_signal, signal.SIGCONT)
        for _ in range(200):
            crowd.enter_context(socket.create_connection(address, timeout=PATIENCE))


def test_what_is_no_stream_still_says_that_nobody_is_there(site: Site) -> None:
    for daphne in site.daphnes:
        daphne.stop()
    for path, statuses in (
        ("/events/?group=orders", {200}),
        ("/", {502, 503}),
        ("/events/health/", {502, 503}),
    ):
        answer = httpx.get(f"{site.proxy.url}{path}", verify=False)
        assert answer.status_code in statuses, path
        if statuses == {200}:
            assert answer.headers["content-type"].startswith("text/event-stream")
            parser = Parser()
            parser.feed(answer.content)
            (event,) = parser.events
            assert (event.name, event.json()) == ("sse.busy", {"reason": "proxy"})
            assert parser.retry is not None
            assert 2000 <= parser.retry <= 5000


def test_no_client_sends_a_mount_point_through_the_proxy(site: Site) -> None:
    headers = {"Daphne-Root-Path": "http://evil.example"}
    ignored = "Daphne-Root-Path, which is ignored"
    for http2 in (True, False):
        with httpx.Client(http2=http2, verify=False, headers=headers, timeout=PATIENCE) as client:
            for _ in site.daphnes * 2:
                assert client.get(f"{site.proxy.url}/test/whoami/").status_code == 200
    for daphne in site.daphnes:
        assert ignored not in daphne.text()
        # Which would be there if the header had come.
        httpx.get(f"{daphne.url}/test/whoami/", headers=headers, timeout=PATIENCE)
        assert ignored in daphne.text()


def test_the_proxy_refuses_what_is_too_long_for_daphne_to_hold(site: Site) -> None:
    url = f"{site.proxy.url}/test/whoami/"

    def chunks(size: int) -> Iterator[bytes]:
        yield from (b"a=&" * (size // 3 // 20) for _ in range(20))

    def post(content: bytes | Iterator[bytes]) -> int:
        # On a connection of its own: the proxy answers before it has read the body, and could take
        # the rest of the body for the next request.
        return httpx.post(url, content=content, verify=False, timeout=PATIENCE).status_code

    for size, status in ((900_000, {200, 403}), (1_500_000, {413})):
        assert post(b"".join(chunks(size))) in status
        assert post(chunks(size)) in status
