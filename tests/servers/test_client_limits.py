"""What `docs/delivery/clients.md` says of clients' own limits, each tried."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import httpx
import ld_eventsource
import pytest
import requests
import requests_sse
from aiohttp_sse_client2 import client as aiohttp_sse
from httpx_sse import connect_sse
from ld_eventsource.config import RetryDelayStrategy
from sseclient import SSEClient

from sse_app.conf import Settings

from ..clients import FOLDER
from ..clients.listeners import NODE
from ..support.patience import PATIENCE
from ..support.servers import Daphne
from ..support.streams import end_stream
from ..support.valkeys import free_port

RETRY = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Daphne]:
    folder = tmp_path_factory.mktemp("limits")
    environment = {"DATABASE_URL": f"sqlite:///{shutil.copy(migrated, folder)}", "REDIS_URL": ""}
    server = Daphne(folder, environment, RETRY=[RETRY, RETRY])
    yield server.start()
    server.close()


@pytest.fixture
def url(server: Daphne) -> str:
    return f"{server.url}/events/?group=chat.limits"


def read_httpx(url: str) -> Iterator[str]:
    with httpx.Client(timeout=PATIENCE) as client, connect_sse(client, "GET", url) as source:
        for event in source.iter_sse():
            yield event.event


def read_requests(url: str) -> Iterator[str]:
    response = requests.get(url, stream=True, timeout=PATIENCE)
    for event in SSEClient(response).events():
        yield event.event


def read_curl(url: str) -> Iterator[str]:
    curl = subprocess.run(["curl", "-sN", url], capture_output=True, text=True, timeout=PATIENCE)
    yield from [line[7:] for line in curl.stdout.splitlines() if line.startswith("event: ")]


def read_launchdarkly(url: str) -> Iterator[str]:
    for event in ld_eventsource.SSEClient(url).events:
        yield event.event


@pytest.mark.parametrize(
    "read",
    [
        read_httpx,
        read_requests,
        pytest.param(read_curl, marks=pytest.mark.curl),
        read_launchdarkly,
    ],
)
def test_these_end_with_the_response(
    read: Callable[[str], Iterator[str]], server: Daphne, url: str
) -> None:
    with ThreadPoolExecutor() as pool:
        seen = pool.submit(lambda: list(read(url)))
        end_stream(server)
        assert seen.result(PATIENCE) == ["sse.open", "sse.close"]


def test_the_default_timeout_of_httpx_is_shorter_than_a_heartbeat() -> None:
    with httpx.Client() as client:
        assert client.timeout.read is not None
        assert client.timeout.read < Settings().HEARTBEAT


async def test_the_default_timeout_of_aiohttp_is_shorter_than_a_stream() -> None:
    async with aiohttp.ClientSession() as session:
        assert session.timeout.total is not None
        assert session.timeout.total < Settings().STREAM_LIFE


def test_without_a_limit_launchdarkly_for_python_stays_away_twice_as_long_each_time() -> None:
    strategy, delays = RetryDelayStrategy.default(), []
    for _ in range(10):
        delay, strategy = strategy.apply(1)
        delays.append(delay)
    assert delays == [2**n for n in range(10)]


def test_requests_sse_gives_up_after_some_refused_connections() -> None:
    url, soon = f"http://127.0.0.1:{free_port()}/", timedelta(milliseconds=1)
    with (
        pytest.raises(requests.ConnectionError),
        requests_sse.EventSource(url, reconnection_time=soon, max_connect_retry=3),
    ):
        pass


async def test_aiohttp_sse_client2_raises_when_a_connection_breaks(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne()
    async with aiohttp_sse.EventSource(f"{daphne.url}/events/?group=chat.limits") as source:
        await anext(source)
        await asyncio.to_thread(daphne.stop, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientPayloadError):
            await anext(source)


def test_requests_sse_stays_away_twice_as_long_as_it_is_told(
    server: Daphne, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("requests_sse.client.time", SimpleNamespace(sleep=waits.append))
    with requests_sse.EventSource(url, timeout=PATIENCE) as source:
        end_stream(server, "unverified")
        while next(source).type != "sse.close":
            pass
        assert next(source).type == "sse.open"
    assert waits == [2 * RETRY]


async def test_aiohttp_sse_client2_stays_away_twice_as_long_as_it_is_told(
    server: Daphne, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("aiohttp_sse_client2.client.asyncio", SimpleNamespace(sleep=sleep))
    async with aiohttp_sse.EventSource(url) as source:
        await asyncio.to_thread(end_stream, server, "unverified")
        while (await anext(source)).type != "sse.close":
            pass
        assert (await anext(source)).type == "sse.open"
    assert waits == [2 * RETRY]


@pytest.mark.npm
def test_launchdarkly_for_node_throws_if_nobody_listens_to_errors() -> None:
    code = (
        "const {EventSource} = require('launchdarkly-eventsource');"
        f"new EventSource('http://127.0.0.1:{free_port()}/');"
    )
    done = subprocess.run(
        [str(NODE), "-e", code],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "Unhandled error" in done.stderr
