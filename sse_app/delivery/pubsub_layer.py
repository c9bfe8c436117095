"""What the mailbox needs of channels_redis's pub/sub layer, beyond the interface of all layers.

That layer has no public way to close its connections without forgetting the channels and groups of
all its users, and its `new_channel()` keeps the channel if it fails.
"""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from typing import Any, Final

#: How long closing the connections may take: some may still have bytes to send.
CLOSE_SECONDS: Final = 2.0


async def open_channel(layer: Any, channel: str | None) -> str:
    """Open `channel`, perhaps again; None: a new one, see `channel_name()`. Return the channel."""
    if channel is None:
        return str(await layer.new_channel())
    if _is_pubsub(layer):
        await layer._subscribe_to_channel(channel)
    return channel


def channel_name(layer: Any) -> str | None:
    """Return a name for a new channel; None if only the layer can make one."""
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


def _is_pubsub(layer: Any) -> bool:
    return any(kind.__module__ == "channels_redis.pubsub" for kind in type(layer).__mro__)
