"""Calls of a channel layer, by its private parts where the public interface costs too much.

The public interface of a layer joins, leaves and sends to one group at a time. On channels_redis's
pub/sub layer each such call is a command under one lock, so an event would wait behind the joins of
all groups that start; and that layer has no public way to close its connections without forgetting
the channels of all its users. On channels' in-memory layer each send is a task and a copy. So this
module uses the private parts of these two layers, if they are as expected. Other layers, also
subclasses with methods of their own, are called by the public interface.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from channels.layers import InMemoryChannelLayer

#: The most groups of one command. An event waits behind one such command at most.
PORTION: Final = 200
#: Concurrent calls of the public interface. channels_redis allows a hundred connections.
CALLS: Final = 32
#: How long closing the connections may take: some may still have bytes to send.
CLOSE_SECONDS: Final = 2.0

#: Layer groups, and the call that joins, leaves or sends to them.
Call = tuple[Collection[str], Callable[[], Awaitable[None]]]


def portion(layer: Any) -> int:
    """Return how many groups to change by one use of `changes()`."""
    return CALLS if _private(layer, "group_add", "group_discard") is None else PORTION


def changes(
    layer: Any, channel: str, joins: Collection[str], leaves: Collection[str]
) -> list[Call]:
    """Return the calls by which `channel` joins and leaves layer groups, for concurrent use."""
    own = _private(layer, "group_add", "group_discard")
    if own is None:
        return [
            *(([group], partial(layer.group_add, group, channel)) for group in joins),
            *(([group], partial(layer.group_discard, group, channel)) for group in leaves),
        ]
    calls: list[Call] = []
    if joins:
        calls.append((joins, partial(_join, own, channel, joins)))
    if leaves:
        calls.append((leaves, partial(_leave, own, channel, leaves)))
    return calls


def sends(layer: Any, messages: Mapping[str, Any]) -> list[Call]:
    """Return the calls that send each message to its layer group, for use in this order."""
    own = _private(layer, "group_send") if len(messages) > 1 else None
    if own is None:
        return [([group], partial(layer.group_send, group, messages[group])) for group in messages]
    return [(messages, partial(_send, own, messages))]


def put(layer: Any, group: str, message: Mapping[str, Any]) -> bool:
    """Send to a layer group of channels' in-memory layer at once, without tasks and copies.

    Returns False for other layers. Receivers must not change what the message has. As by
    `group_send()`, a channel that is full gets nothing.
    """
    methods = ((getattr(layer, name), getattr(InMemoryChannelLayer, name)) for name in _SENDING)
    if any(getattr(own, "__func__", None) is not expected for own, expected in methods):
        return False
    if not all(hasattr(layer, name) for name in _IN_MEMORY):
        return False
    for channel in layer.groups.get(group, ()):
        queue = layer.channels.setdefault(channel, asyncio.Queue(layer.get_capacity(channel)))
        with suppress(asyncio.QueueFull):
            queue.put_nowait((time.time() + layer.expiry, {**message}))
    return True


async def open_channel(layer: Any, channel: str | None) -> str:
    """Open `channel`, perhaps again; None: a new one, see `channel_name()`. Return the channel."""
    if channel is None:
        return str(await layer.new_channel())
    if _is_pubsub(layer):
        await layer._subscribe_to_channel(channel)
    return channel


def channel_name(layer: Any) -> str | None:
    """Return a name for a new channel; None if only the layer can make one.

    A channel that `new_channel()` made would stay on the pub/sub layer if that call failed.
    """
    return f"{layer.prefix}specific.{uuid.uuid4().hex}" if _is_pubsub(layer) else None


async def reconnect(layer: Any) -> bool:
    """Close the connections of a pub/sub layer on this loop; return False for other layers.

    The layer opens new ones, and redis-py repeats all subscriptions. So other users of the layer
    lose no channel.
    """
    if not _is_pubsub(layer):
        return False
    pools = [shard._redis.connection_pool for shard in layer._shards if shard._redis is not None]
    for pool in pools:
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await pool.disconnect(inuse_connections=True)
    return True


async def forget(layer: Any, channel: str, groups: Iterable[str]) -> None:
    """Remove `channel` and its `groups` from a pub/sub layer whose Redis does not answer.

    The connections are closed, so Redis drops the subscriptions too. On other layers memberships
    expire.
    """
    own = _private(layer, "group_add", "group_discard")
    if own is None:
        return
    own.channels.pop(channel, None)
    for shard, names in _by_shard(own, [channel, *_free(own, channel, groups)]):
        shard._subscribed_to.difference_update(names)
        _drop(shard, names)
    await reconnect(layer)


async def _join(own: Any, channel: str, groups: Collection[str]) -> None:
    names = [own._get_group_channel_name(group) for group in groups]
    for name in names:
        own.groups.setdefault(name, set()).add(channel)
    for shard, found in _by_shard(own, names):
        async with shard._lock:
            new = [name for name in found if name not in shard._subscribed_to]
            if new:
                shard._ensure_redis()
                shard._ensure_receiver()
                await shard._pubsub.subscribe(*new)
                shard._subscribed_to.update(new)


async def _leave(own: Any, channel: str, groups: Collection[str]) -> None:
    for shard, names in _by_shard(own, _free(own, channel, groups)):
        async with shard._lock:
            # Removed first: after a command that failed, the next join must subscribe again.
            shard._subscribed_to.difference_update(names)
            shard._ensure_redis()
            shard._ensure_receiver()
            await shard._pubsub.unsubscribe(*names)
            # redis-py removes a channel when Redis confirms, and would subscribe again to all
            # others if the connection broke before. Without any channel the layer would stop to
            # read, so the last one waits for the confirmation.
            if len(shard._pubsub.channels) > len(names):
                _drop(shard, names)


async def _send(own: Any, messages: Mapping[str, Any]) -> None:
    channels = {own._get_group_channel_name(group): messages[group] for group in messages}
    for shard, names in _by_shard(own, channels):
        async with shard._lock:
            shard._ensure_redis()
            pipeline = shard._redis.pipeline(transaction=False)
            for name in names:
                pipeline.publish(name, own.channel_layer.serialize(channels[name]))
            await pipeline.execute()


def _free(own: Any, channel: str, groups: Iterable[str]) -> list[str]:
    """Take `channel` out of `groups`; return the names of those that no other channel is in."""
    free = []
    for name in map(own._get_group_channel_name, groups):
        channels = own.groups.get(name, set())
        channels.discard(channel)
        if not channels:
            own.groups.pop(name, None)
            free.append(name)
    return free


def _drop(shard: Any, names: Iterable[str]) -> None:
    """Let redis-py forget the subscriptions to `names`."""
    if shard._pubsub is not None:
        encoder = shard._pubsub.encoder
        for name in names:
            shard._pubsub.channels.pop(encoder.decode(encoder.encode(name)), None)


def _by_shard(own: Any, names: Iterable[str]) -> Iterator[tuple[Any, list[str]]]:
    found: dict[Any, list[str]] = {}
    for name in names:
        found.setdefault(own._get_shard(name), []).append(name)
    return iter(found.items())


def _is_pubsub(layer: Any) -> bool:
    return any(kind.__module__ == "channels_redis.pubsub" for kind in type(layer).__mro__)


#: The methods of the in-memory layer that `put()` replaces.
_SENDING: Final = ("group_send", "send")
#: The parts of the in-memory layer that this module uses; `get_capacity()` is a method of all.
_IN_MEMORY: Final = ("channels", "groups", "expiry")
#: The private parts of the pub/sub layer and of its connections that this module uses.
_LAYER: Final = (
    *("_shards", "_get_shard", "_get_group_channel_name"),
    *("groups", "channels", "channel_layer"),
)
_SHARD: Final = (
    *("_lock", "_subscribed_to", "_redis", "_pubsub"),
    *("_ensure_redis", "_ensure_receiver"),
)


def _private(layer: Any, *methods: str) -> Any:
    """Return the pub/sub layer of the running loop; None if `methods` must be called instead."""
    if not _is_pubsub(layer) or any(hasattr(type(layer), method) for method in methods):
        return None
    own = layer._get_layer()
    is_known = all(hasattr(own, name) for name in _LAYER) and all(
        hasattr(shard, name) for shard in own._shards for name in _SHARD
    )
    return own if is_known else None
