"""Many groups that start at once: few reads, few connections, and no client is sent away."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import uuid
from collections.abc import Callable, Collection
from contextlib import closing
from typing import Any

import pytest
import redis
from channels.layers import channel_layers

from sse_app.delivery import memberships, starts
from sse_app.delivery.hub import get_hub, running_hubs
from sse_app.eventlog import event_log
from sse_app.protocol.cursors import Position
from sse_app.runtime import layer_calls
from sse_app.runtime.callables import CallbackFailed

from ..support.layers import ForeignLayer
from ..support.patience import PATIENCE
from ..support.servers import Daphne
from ..support.subscribers import Reader


def redis_log(valkey: str) -> dict[str, str]:
    prefix = f"test.{uuid.uuid4().hex}"
    return {
        "BACKEND": "sse_app.eventlog.RedisEventLog",
        "URL": f"{valkey}?client_name={prefix}",
        "PREFIX": prefix,
    }


@pytest.fixture(params=["memory", "database", "redis"])
def log(request: pytest.FixtureRequest, valkey: str, settings: Any) -> str:
    kinds: dict[str, Any] = {
        "memory": "sse_app.eventlog.MemoryEventLog",
        "database": "sse_app.eventlog.DatabaseEventLog",
        "redis": redis_log(valkey),
    }
    settings.SSE_APP = {"EVENT_LOG": kinds[request.param], "CHECK_INTERVAL": 600}
    return str(request.param)


class Reads:
    """Notes the groups of each call of `aheads()` that starts groups; the first `failing` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[set[str]] = []
        self.failing = 0.0
        self.error: BaseException = ConnectionError("the log is away")
        real = type(event_log()).aheads

        async def counted(log: Any, groups: Collection[str]) -> dict[str, Position]:
            if "warm" not in groups:  # as the checks of all heads have
                self.seen.append(set(groups))
                if len(self.seen) <= self.failing:
                    raise self.error
            return await real(log, groups)

        monkeypatch.setattr(type(event_log()), "aheads", counted)


async def start(*groups: str) -> Reader:
    return await Reader().start(*groups)


async def start_all(count: int) -> list[Reader]:
    return await asyncio.gather(*(start(f"g{n}") for n in range(count)))


async def stop(*readers: Reader) -> None:
    await asyncio.gather(*(reader.stop() for reader in readers))


async def warm() -> Reader:
    """Return a reader whose hub has nothing left to start or to check."""
    reader = await start("warm")
    await reader.hub.check()
    return reader


# --- few reads ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("log")
async def test_groups_that_start_in_one_turn_are_read_by_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await warm()
    reads = Reads(monkeypatch)
    many = await start(*(f"one.{n}" for n in range(20)))
    assert reads.seen == [{f"one.{n}" for n in range(20)}]
    readers = await start_all(30)
    assert reads.seen[1:] == [{f"g{n}" for n in range(30)}]
    await stop(first, many, *readers)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("log")
async def test_very_many_groups_are_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    first = await warm()
    reads = Reads(monkeypatch)
    readers = await start_all(2 * starts.PORTION + 100)
    assert list(map(len, reads.seen)) == [starts.PORTION, starts.PORTION, 100]
    await stop(first, *readers)


# --- a log that fails ---


@pytest.fixture
def memory(settings: Any) -> None:
    settings.SSE_APP = {
        "EVENT_LOG": "sse_app.eventlog.MemoryEventLog",
        "CHECK_INTERVAL": 600,
    }


@pytest.mark.usefixtures("memory")
async def test_a_read_that_fails_for_a_moment_sends_nobody_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(starts, "RETRY_SECONDS", PATIENCE)
    first = await warm()
    reads = Reads(monkeypatch)
    reads.failing = 2
    readers = await start_all(10)
    assert len(reads.seen) == 3
    await stop(first, *readers)


@pytest.mark.usefixtures("memory")
async def test_where_the_log_stays_away_each_start_fails_and_no_failure_is_left_unseen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starts, "RETRY_SECONDS", 0.0)
    first = await warm()
    reads = Reads(monkeypatch)
    reads.failing = float("inf")
    # Of twenty groups the reader sees the first failure only, and some readers leave before it.
    tasks = [
        asyncio.create_task(start(f"g{n}", *(f"{n}.{m}" for m in range(20)))) for n in range(9)
    ]
    leaving = asyncio.create_task(start("left"))
    await asyncio.sleep(0)
    leaving.cancel()
    results = await asyncio.gather(*tasks, leaving, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionError] * 9 + [asyncio.CancelledError]
    del results, tasks, leaving
    gc.collect()
    await asyncio.sleep(0)
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    reads.failing = 0
    again = await start("g0")
    await stop(first, again)


@pytest.mark.usefixtures("memory")
async def test_a_log_that_leaves_a_group_out_fails_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await warm()

    async def empty(log: Any, groups: Collection[str]) -> dict[str, Position]:
        return {}

    monkeypatch.setattr(type(event_log()), "aheads", empty)
    with pytest.raises(KeyError):
        await asyncio.wait_for(start("g"), PATIENCE)
    await stop(first)


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("error", [asyncio.CancelledError("on purpose"), SystemExit("on purpose")])
async def test_whatever_a_log_raises_fails_the_start_and_the_next_one_reads_again(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await warm()
    reads = Reads(monkeypatch)
    reads.failing, reads.error = 1, error
    with pytest.raises(CallbackFailed, match="on purpose"):
        await asyncio.wait_for(start("g"), PATIENCE)
    again = await asyncio.wait_for(start("g"), PATIENCE)
    await stop(first, again)


# --- a hub that ends, and another one that begins ---


class SlowLayer(ForeignLayer):
    """Counts joins, which wait while `free` is not set, and leaves."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.free = asyncio.Event()
        self.free.set()
        self.joins = self.leaves = 0

    async def group_add(self, group: str, channel: str) -> None:
        self.joins += 1
        await self.free.wait()
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self.leaves += 1
        await super().group_discard(group, channel)


async def settled() -> None:
    """Return when the hub's mailbox has no join or leave under way."""
    changing = get_hub().mailbox.memberships._working
    if changing:
        await asyncio.wait([changing])


@pytest.mark.usefixtures("memory")
async def test_joins_that_waited_until_their_readers_had_left_are_not_made(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memberships, "WAIT_SECONDS", 0.01)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.delivery.test_starts.SlowLayer"}}
    first = await warm()
    await settled()
    layer = channel_layers["default"]
    before = layer.joins
    layer.free.clear()
    readers = await start_all(3 * layer_calls.CALLS)
    await stop(*readers)
    layer.free.set()
    await settled()
    await get_hub().mailbox.memberships.leave_all()
    await settled()
    assert layer.joins - before == layer_calls.CALLS
    assert layer.leaves == layer_calls.CALLS, "a group that was not joined was left"
    assert not [group for group in layer.groups if ".g" in group]
    await stop(first)
    channel_layers.backends.clear()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("log")
async def test_the_last_reader_may_leave_at_any_moment_while_a_new_one_comes() -> None:
    for turns in range(40):
        last = await start("g")
        leaving = asyncio.create_task(last.stop())
        for _ in range(turns):
            await asyncio.sleep(0)
        new = await start("g")
        await leaving
        await new.hub.check()
        await new.stop()
    assert not running_hubs()


# --- real servers ---


def name_of_first(connection: socket.socket) -> str:
    """Return the name of a stream's first event."""
    text = b""
    while b"\ndata: " not in text:
        chunk = connection.recv(4096)
        assert chunk, text
        text += chunk
    return text.decode().partition("event: ")[2].splitlines()[0]


def ask(daphne: Daphne, query: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", daphne.port), timeout=PATIENCE)
    connection.sendall(f"GET /events/?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


@pytest.fixture
def on_redis(make_daphne: Callable[..., Daphne], valkey: str) -> Daphne:
    return make_daphne({"REDIS_URL": valkey}, EVENT_LOG=redis_log(valkey), CHECK_INTERVAL=600)


@pytest.mark.slow
def test_four_hundred_clients_with_a_group_each_are_all_served(
    on_redis: Daphne, valkey: str
) -> None:
    clients = [ask(on_redis, f"group=orders.{n}") for n in range(400)]
    assert {name_of_first(client) for client in clients} == {"sse.open"}
    log = on_redis.text()
    assert "Traceback" not in log
    assert "failed" not in log
    with closing(redis.Redis.from_url(valkey)) as server:
        names = [each["name"] for each in server.client_list()]
    # Its streams start by one read at a time; the events and other commands share the rest.
    assert sum(name.startswith("test.") for name in names) < 40
    for client in clients:
        client.close()
    on_redis.until_streams(0)


def test_clients_that_come_as_the_last_one_goes_are_all_served(on_redis: Daphne) -> None:
    last = ask(on_redis, "group=orders")
    for _ in range(30):
        assert name_of_first(last) == "sse.open"
        last.close()
        last = ask(on_redis, "group=orders")
    assert name_of_first(last) == "sse.open"
    last.close()
    on_redis.until_streams(0)


@pytest.mark.parametrize("kind", ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"])
@pytest.mark.usefixtures("memory")
async def test_hundreds_of_groups_at_once_are_all_joined_on_the_layer(
    kind: str, valkey: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": f"channels_redis.{kind}", "CONFIG": {"hosts": [valkey]}}
    }
    with caplog.at_level(logging.WARNING):
        readers = await start_all(300)
        await settled()
    assert [record.getMessage() for record in caplog.records] == []
    await stop(*readers)
    channel_layers.backends.clear()
