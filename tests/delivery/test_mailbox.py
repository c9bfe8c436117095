"""The mailbox on real layers whose Redis is away, hangs, or sits behind a silent connection."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import channel_layers
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.asyncio.client import PubSub

from sse_app.conf import site_tag
from sse_app.delivery import mailbox, memberships
from sse_app.delivery.hub import get_hub, running_hub
from sse_app.protocol.groups import layer_group
from sse_app.runtime import services

from ..support.cables import Cable
from ..support.patience import PATIENCE
from ..support.subscribers import Reader
from ..support.valkeys import Valkey

KINDS = {"core": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey").start()
    yield server
    server.kill()


@pytest.fixture
def cable(redis: Valkey) -> Iterator[Cable]:
    cable = Cable(redis.port)
    yield cable
    cable.close()


def port_of(cable: Cable) -> int:
    return int(cable.url.rsplit(":", 1)[1])


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(memberships, "WAIT_SECONDS", 0.01)
    return str(request.param)


def use(settings: Any, kind: str, port: int) -> Any:
    """Let the app use a layer on `port`; no check of the log's heads helps."""
    settings.SSE_APP = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog", "CHECK_INTERVAL": 600}
    backend = f"{KINDS[kind].__module__}.{KINDS[kind].__qualname__}"
    hosts = [f"redis://127.0.0.1:{port}"]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"hosts": hosts}}}
    return channel_layers["default"]


class Sender:
    """Sends non-durable events as another process would, on a layer of its own."""

    def __init__(self, kind: str, port: int) -> None:
        self._layer = KINDS[kind](hosts=[f"redis://127.0.0.1:{port}"])

    async def until_seen(self, reader: Reader, group: str, data: str) -> None:
        """Send `data` to `group` again and again, until the reader has it."""
        message = {"type": "sse.event", "group": group, "event": "n", "data": data}
        async with asyncio.timeout(PATIENCE):
            while data not in reader.sink.seen:
                try:
                    await self._layer.group_send(layer_group(group, site_tag()), message)
                except Exception:
                    pass  # Redis is not there yet.
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        for layer in list(self._layer._layers.values()):
            await layer.flush()


@pytest.fixture
async def sender(kind: str, redis: Valkey) -> AsyncIterator[Sender]:
    sender = Sender(kind, redis.port)
    yield sender
    if kind == "pubsub":
        await sender.close()


async def until(check: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 - nothing tells when it becomes true
            await asyncio.sleep(0.01)


async def test_a_group_joined_while_redis_is_away_is_joined_when_it_is_back(
    kind: str, redis: Valkey, sender: Sender, settings: Any
) -> None:
    use(settings, kind, redis.port)
    first = await Reader().start("first")
    await sender.until_seen(first, "first", "before")
    redis.kill()
    second = await Reader().start("second")
    redis.start()
    await sender.until_seen(second, "second", "here")
    await sender.until_seen(first, "first", "still")
    for reader in (first, second):
        await reader.stop()


async def test_a_join_that_fails_once_is_tried_again(
    settings: Any, redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else fails, so that no new connection joins all groups."""
    use(settings, "pubsub", redis.port)
    first = await Reader().start("first")
    real = PubSub.subscribe
    failed = []

    async def subscribe(pubsub: PubSub, *names: str) -> None:
        if not failed:
            failed.append(names)
            raise ConnectionError("on purpose")
        await real(pubsub, *names)

    monkeypatch.setattr(PubSub, "subscribe", subscribe)
    second = await Reader().start("second")
    sender = Sender("pubsub", redis.port)
    await sender.until_seen(second, "second", "here")
    assert failed
    await sender.close()
    for reader in (first, second):
        await reader.stop()


async def test_a_layer_that_stays_silent_is_connected_to_again(
    kind: str,
    redis: Valkey,
    cable: Cable,
    sender: Sender,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mailbox, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(mailbox, "ARRIVAL_SECONDS", 1.0)
    use(settings, kind, port_of(cable))
    reader = await Reader().start("g")
    await sender.until_seen(reader, "g", "before")
    cable.forget()
    await sender.until_seen(reader, "g", "after")
    await reader.stop()


async def test_other_users_of_the_layer_keep_their_channels(
    redis: Valkey, cable: Cable, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(mailbox, "ARRIVAL_SECONDS", 1.0)
    layer = use(settings, "pubsub", port_of(cable))
    channel = await layer.new_channel()
    await layer.group_add("chat", channel)
    receiving = asyncio.create_task(layer.receive(channel))
    reader = await Reader().start("g")
    sender = Sender("pubsub", redis.port)
    await sender.until_seen(reader, "g", "before")
    cable.forget()
    async with asyncio.timeout(PATIENCE):
        while not receiving.done():
            await sender._layer.group_send("chat", {"type": "hello"})
            await asyncio.sleep(0.05)
    assert receiving.result() == {"type": "hello"}
    await reader.stop()
    await sender.close()


async def test_an_idle_layer_that_answers_is_left_alone(
    kind: str, redis: Valkey, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "SILENT_SECONDS", 0.01)
    use(settings, kind, redis.port)
    reader = await Reader().start("g")
    arrived = []
    box = get_hub().mailbox
    real = box._arrived
    monkeypatch.setattr(box, "_arrived", lambda token: (arrived.append(token), real(token)))
    receiving = box._receiving
    await until(lambda: len(arrived) >= 5)
    assert box._receiving is receiving
    assert box._error is None
    await reader.stop()


# --- nothing is left behind ---

NUMBERED = re.compile(r"g\d")


def left_on(layer: Any) -> tuple[int, int]:
    """Return how many channels and groups a pub/sub layer has on the running loop."""
    found = layer._get_layer()
    return len(found.channels), len(found.groups)


@pytest.fixture
def pubsub(settings: Any, redis: Valkey) -> Any:
    return use(settings, "pubsub", redis.port)


async def test_a_cancelled_leave_reaches_the_layer(pubsub: Any, redis: Valkey) -> None:
    last = await Reader().start("last")
    await asyncio.sleep(0)
    before = left_on(pubsub)
    for n in range(20):
        reader = await Reader().start(f"g{n}")
        reader.subscription.close("done")
        await reader.task
        leaving = asyncio.create_task(reader.hub.leave(reader.subscription))
        for _ in range(n % 4 + 1):
            await asyncio.sleep(0)
        leaving.cancel()
    known = get_hub().mailbox.memberships.known
    await until(lambda: left_on(pubsub) == before and not any(map(NUMBERED.match, known)))
    last.subscription.close("done")
    await last.task
    leaving = asyncio.create_task(last.hub.leave(last.subscription))
    await asyncio.sleep(0)
    leaving.cancel()
    await until(lambda: left_on(pubsub) == (0, 0))
    assert running_hub() is None
    with redis.client() as client:
        await until(lambda: client.pubsub_channels() == [])


@pytest.mark.parametrize("fault", ["hangs", "is away"])
async def test_hubs_that_close_without_redis_leave_nothing_behind(
    pubsub: Any, redis: Valkey, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(memberships, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(mailbox, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(services, "CANCEL_SECONDS", 0.01)
    reader = await Reader().start("g0")
    await until(lambda: reader.hub.mailbox.memberships.known.get("g0"))
    assert redis.process
    if fault == "hangs":
        redis.process.send_signal(signal.SIGSTOP)
    else:
        redis.kill()
    await reader.stop()
    for n in range(1, 4):
        reader = await Reader().start(f"g{n}")
        await asyncio.sleep(0.05)
        await reader.stop()
    assert left_on(pubsub) == (0, 0)
    if fault == "hangs":
        redis.process.send_signal(signal.SIGCONT)
    else:
        redis.start()
    for module in (memberships, mailbox):  # It answers, however slow the machine is.
        monkeypatch.setattr(module, "WAIT_SECONDS", PATIENCE)
    for _ in range(2):
        reader = await Reader().start("g")
        known = reader.hub.mailbox.memberships.known
        await until(lambda: known.get("g") and not any(map(NUMBERED.match, known)))  # noqa: B023
        await reader.stop()
    assert left_on(pubsub) == (0, 0)
    with redis.client() as client:
        await until(lambda: client.pubsub_channels() == [])
