"""`reply()`: an event for nobody but the page that spoke."""

from __future__ import annotations

from asgiref.sync import sync_to_async

from . import publishing
from .conf import settings
from .connections import Reply
from .inbox import Message


def reply(
    message: Message,
    event: str,
    data: object = "",
    *,
    key: str | None = None,
    using: str | None = None,
    immediate: bool = False,
) -> bool:
    """Send one event to the stream beside which `message` was spoken, and to no other.

    For what a handler's answer comes too early for: the progress of what was asked for, or its
    result from a task. `data`, `key`, `using` and `immediate` as for `publish()` of an event that
    is not durable: it has no id, is never replayed, and leaves with the surrounding transaction
    unless `immediate=True`. With the in-memory layer it reaches the streams of its own process
    only. Of the tabs that share the stream by the app's script, only the one that spoke gets it.

    Returns False, and sends nothing, if the page did not say which stream is its own. That it is
    sent does not mean that it arrives: the connection may have ended, and there is no other.
    Raises `ValueError` and `TypeError` as `publish()` does.
    """
    made = Reply.of(
        *(message.group, event, data), key=key, stream=message.stream, tab=message.tab
    ).limited(settings().MAX_EVENT_BYTES)
    if not made.stream:
        return False
    publishing.publish_events([made.to_event()], using=using, immediate=immediate)
    return True


async def areply(
    message: Message,
    event: str,
    data: object = "",
    *,
    key: str | None = None,
    using: str | None = None,
    immediate: bool = False,
) -> bool:
    """See `reply()`. Runs where Django's own async database calls run."""
    send = sync_to_async(reply)
    return await send(message, event, data, key=key, using=using, immediate=immediate)
