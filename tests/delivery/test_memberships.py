"""How many groups and commands a channel layer gets, however many groups have readers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, channel_layers
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis import asyncio as aioredis
from redis.asyncio.client import PubSub

from sse_app import publish, publish_many
from sse_app.conf import site_tag
from sse_app.delivery import mailbox, memberships
from sse_app.delivery.hub import get_hub
from sse_app.protocol.events import Event
from sse_app.protocol.groups import layer_group, shared_group
from sse_app.runtime import layer_calls

from ..support.layers import ForeignLayer
from ..support.patience import PATIENCE
from ..support.subscribers import Reader
from ..support.valkeys import Valkey


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey").start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def use(settings: Any) -> Iterator[Callable[..., Any]]:
    """Let the app use the layer of a class; no check of the log's heads helps."""
    settings.SSE_APP = {"EVENT_LOG": "sse_app.eventlog.MemoryEventLog", "CHECK_INTERVAL": 600}

    def use(kind: type, **options: Any) -> Any:
        backend = f"{kind.__module__}.{kind.__qualname__}"
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": options}}
        return channel_layers["default"]

    yield use
    channel_layers.backends.clear()


@pytest.fixture
def pubsub(use: Callable[..., Any], redis: Valkey) -> Any:
    return use(RedisPubSubChannelLayer, hosts=[redis.url])


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 - nothing tells when it becomes true
            await asyncio.sleep(0.01)


def commands(redis: Valkey, name: str) -> int:
    """Return how many of these commands Redis has got."""
    with redis.client() as client:
        return int(client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def subscribed(redis: Valkey) -> set[str]:
    """Return the groups of the app that Redis has subscriptions for."""
    beginning = f"asgi__group__{layer_group('', site_tag())}"
    with redis.client() as client:
        names = [name.decode() for name in client.pubsub_channels()]
    return {name.removeprefix(beginning) for name in names if name.startswith(beginning)}


def many(count: int) -> list[str]:
    return [f"user.{n}" for n in range(count)]


# --- the in-memory layer ---


class CountingLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    """Counts the messages."""

    sent = 0

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self.sent += 1
        await super().group_send(group, message)


async def test_in_memory_five_thousand_groups_are_one_layer_group(
    use: Callable[..., Any],
) -> None:
    layer = use(InMemoryChannelLayer)
    reader = await Reader().start(*many(5000))
    assert len(get_hub().topics) >= 5000
    assert set(layer.groups) == {shared_group(site_tag()), reader.hub.mailbox._probe_group}
    for n in (0, 4999):
        publish(f"user.{n}", "n", str(n), durable=False)
        await reader.sink.until(str(n))
    await reader.stop()
    assert layer.groups == {}


async def test_in_memory_the_events_of_many_groups_are_one_message(
    use: Callable[..., Any],
) -> None:
    layer = use(CountingLayer)
    reader = await Reader().start(*many(80))
    await until(lambda: layer.groups)
    before = layer.sent
    publish_many([(group, "n", group) for group in many(80)])
    await reader.sink.until("user.79")
    assert layer.sent - before == 1
    await reader.stop()


async def test_in_memory_a_channel_that_the_layer_removed_is_joined_again(
    use: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one message expires, the layer removes the channel from all groups."""
    monkeypatch.setattr(mailbox, "SILENT_SECONDS", 0.01)
    layer = use(InMemoryChannelLayer)
    reader = await Reader().start("g")
    layer._remove_from_groups(reader.hub.mailbox._channel)
    await until(lambda: layer.groups[shared_group(site_tag())])
    publish("g", "n", "here", durable=False)
    await reader.sink.until("here")
    await reader.stop()


@pytest.mark.parametrize("kind", [InMemoryChannelLayer, ForeignLayer])
async def test_memberships_that_lapsed_are_joined_again(
    use: Callable[..., Any], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_app.delivery.hub.REJOIN_SECONDS", 0.01)
    monkeypatch.setattr(mailbox, "SILENT_SECONDS", 600.0)  # No test of the layer helps.
    layer = use(kind)
    reader = await Reader().start("g")
    before = set(layer.groups)
    layer.groups.clear()
    await until(lambda: before <= set(layer.groups))
    await reader.stop()


async def test_a_hub_that_is_closed_with_readers_leaves_their_groups(
    use: Callable[..., Any],
) -> None:
    layer = use(ForeignLayer)
    reader = await Reader().start("g")
    assert layer_group("g", site_tag()) in layer.groups
    await reader.hub.close()
    assert layer.groups == {}
    await reader.stop()


# --- the pub/sub layer ---


async def test_two_thousand_groups_that_start_together_are_joined_and_left_by_few_commands(
    pubsub: Any, redis: Valkey
) -> None:
    first = await Reader().start("first")
    await until(lambda: "first" in subscribed(redis))
    joins, leaves = commands(redis, "subscribe"), commands(redis, "unsubscribe")
    readers = await asyncio.gather(*(Reader().start(group) for group in many(2000)))
    await until(lambda: len(subscribed(redis)) > 2000)
    assert commands(redis, "subscribe") - joins == 2000 / layer_calls.PORTION
    await asyncio.gather(*(reader.stop() for reader in readers))
    await until(lambda: not subscribed(redis) & set(many(2000)))
    assert commands(redis, "unsubscribe") - leaves <= 2 * 2000 / layer_calls.PORTION
    await first.stop()


async def test_an_event_published_while_thousands_of_groups_join_is_sent_between_them(
    pubsub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await Reader().start("first")
    order: list[str] = []
    for kind, name in ((PubSub, "subscribe"), (aioredis.Redis, "publish")):
        real = getattr(kind, name)

        async def noted(self: Any, *args: Any, name: str = name, real: Any = real) -> Any:
            order.append(name)
            if order == ["subscribe"]:
                publish("first", "n", "between", durable=False)
            return await real(self, *args)

        monkeypatch.setattr(kind, name, noted)
    starting = asyncio.create_task(Reader().start(*many(4000)))
    await first.sink.until("between")
    reader = await starting
    await until(lambda: order.count("subscribe") == 4000 / layer_calls.PORTION)
    assert "publish" in order
    assert order.index("publish") < len(order) / 2, order
    await reader.stop()
    await first.stop()


async def test_the_events_of_many_groups_are_one_round_trip(
    pubsub: Any, redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await Reader().start(*many(80))
    await until(lambda: len(subscribed(redis)) >= 80)
    trips: list[str] = []
    for kind in (aioredis.client.Pipeline, aioredis.Redis):
        name = "execute" if kind is not aioredis.Redis else "execute_command"
        real = getattr(kind, name)

        async def noted(self: Any, *args: Any, name: str = name, real: Any = real) -> Any:
            trips.append(name)
            return await real(self, *args)

        monkeypatch.setattr(kind, name, noted)
    before = commands(redis, "publish")
    publish_many([(group, "n", group) for group in many(80)], durable=False)
    await reader.sink.until("user.79")
    assert trips == ["execute"]
    assert commands(redis, "publish") - before == 80
    await reader.stop()


async def test_a_reader_that_comes_soon_after_the_last_one_costs_no_command(
    pubsub: Any, redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await Reader().start("first"), await Reader().start("g")
    await until(lambda: "g" in subscribed(redis))
    before = commands(redis, "subscribe"), commands(redis, "unsubscribe")
    monkeypatch.setattr(memberships, "LEAVE_SECONDS", PATIENCE)
    await second.stop()
    for _ in range(20):
        await asyncio.sleep(0)
    assert first.hub.mailbox.memberships.known["g"]
    third = await Reader().start("g")
    assert (commands(redis, "subscribe"), commands(redis, "unsubscribe")) == before
    await third.stop()
    await first.stop()
    await until(lambda: not subscribed(redis))


async def test_a_leave_that_redis_never_confirmed_is_not_undone_by_the_next_connection(
    pubsub: Any, redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py subscribes again to all channels whose end it has not heard of."""
    monkeypatch.setattr(memberships, "LEAVE_SECONDS", 0.01)
    first, second = await Reader().start("first"), await Reader().start("g")
    await until(lambda: {"first", "g"} <= subscribed(redis))
    redis.signal(signal.SIGSTOP)
    await second.stop()
    await until(lambda: "g" not in first.hub.mailbox.memberships.known)
    redis.kill()
    redis.start()
    await until(lambda: "first" in subscribed(redis))
    assert "g" not in subscribed(redis)
    await first.stop()


async def test_a_group_whose_leave_failed_after_it_was_done_is_joined_again(
    pubsub: Any, redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memberships, "LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(memberships, "RETRY_SECONDS", (PATIENCE, PATIENCE))
    first, second = await Reader().start("first"), await Reader().start("g")
    await until(lambda: {"first", "g"} <= subscribed(redis))
    real = PubSub.unsubscribe

    async def unsubscribe(pubsub: PubSub, *names: str) -> None:
        await real(pubsub, *names)
        raise ConnectionError("on purpose")

    monkeypatch.setattr(PubSub, "unsubscribe", unsubscribe)
    await second.stop()
    await until(lambda: "g" not in subscribed(redis))
    monkeypatch.setattr(PubSub, "unsubscribe", real)
    third = await Reader().start("g")
    await until(lambda: "g" in subscribed(redis))
    await third.stop()
    await first.stop()
    await until(lambda: not subscribed(redis))


async def test_events_of_a_group_without_a_reader_are_dropped_before_they_are_validated(
    pubsub: Any, redis: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await Reader().start("g")
    await until(lambda: "g" in subscribed(redis))
    validated: list[str] = []
    real = Event.from_message

    def noted(message: Any) -> Event:
        validated.append(message["group"])
        return real(message)

    monkeypatch.setattr(Event, "from_message", noted)
    for group in ("other", "g"):
        message = {"type": "sse.event", "group": group, "event": "n", "data": "here"}
        await pubsub.group_send(layer_group("g", site_tag()), message)
    await reader.sink.until("here")
    assert validated == ["g"]
    await reader.stop()


class OwnLayer(RedisPubSubChannelLayer):  # type: ignore[misc]  # channels_redis has no types
    """Has methods of its own, as a layer that encrypts or counts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[str] = []

    async def group_add(self, group: str, channel: str) -> None:
        self.calls.append("group_add")
        await self._get_layer().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self.calls.append("group_discard")
        await self._get_layer().group_discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self.calls.append("group_send")
        await self._get_layer().group_send(group, message)


@pytest.mark.parametrize("known", [True, False])
async def test_a_layer_with_methods_or_parts_of_its_own_is_called_by_the_public_interface(
    use: Callable[..., Any], redis: Valkey, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        layer = use(OwnLayer, hosts=[redis.url])
    else:
        monkeypatch.setattr(layer_calls, "_SHARD", ("no_such_part",))
        layer = use(RedisPubSubChannelLayer, hosts=[redis.url])
    reader = await Reader().start("one", "two")
    await until(lambda: {"one", "two"} <= subscribed(redis))
    publish_many([("one", "n", "1"), ("two", "n", "2")], durable=False)
    await reader.sink.until("2")
    assert reader.sink.seen == ["1", "2"]
    assert layer_calls.portion(layer) == layer_calls.CALLS
    await reader.stop()
    await until(lambda: not subscribed(redis))
    if known:
        assert set(layer.calls) == {"group_add", "group_discard", "group_send"}
        assert layer.calls.count("group_send") >= 2
