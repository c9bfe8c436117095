"""What pages send up: handlers by event name, registered with `on()`, removed with `off()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.http import HttpRequest

from .. import signals
from ..conf import settings
from ..protocol.events import validate_published
from ..protocol.replies import Reply
from ..runtime.callables import call_from_sync
from . import publish

Handler = TypeVar("Handler", bound=Callable[..., Any])

_handlers: dict[str, list[Callable[..., Any]]] = {}


@dataclass(frozen=True)
class Message:
    """One message from a page. `user` comes from the session, never from the page.

    `stream` is the id of the stream beside which it was spoken, as far as the page said so and it
    is this user's, else empty; `tab` tells apart the pages that share it. See `reply()`.
    """

    user: Any
    group: str
    event: str
    data: Any
    request: HttpRequest
    stream: str = ""
    tab: str = ""


def on(event: str) -> Callable[[Handler], Handler]:
    """Register the decorated function, sync or async, for what pages send up as `event`.

    It is called with a `Message`; what it returns is the JSON answer (of several handlers, the
    first answer that is not None). A `ValidationError` it raises is answered with 422. For a
    message with an idempotency key it runs inside `transaction.atomic()`. Raises `ValueError` for
    an invalid or reserved event name.
    """
    validate_published(event)

    def register(handler: Handler) -> Handler:
        handlers = _handlers.setdefault(event, [])
        if handler not in handlers:
            handlers.append(handler)
        return handler

    return register


def off(event: str, handler: Callable[..., Any]) -> None:
    """Remove `handler` from `event`; nothing happens if it is not there."""
    handlers = _handlers.get(event, [])
    if handler in handlers:
        handlers.remove(handler)


def has_handler(event: str) -> bool:
    """Whether a handler is registered for `event`."""
    return bool(_handlers.get(event))


def receive(message: Message) -> Any:
    """Call the handlers of `message` in the order of their registration; return their answer."""
    signals.message_received.send_robust(sender=Message, message=message)
    answer = None
    for handler in list(_handlers.get(message.event, [])):
        result = call_from_sync(handler, message)
        answer = result if answer is None else answer
    return answer


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
    publish.publish_events([made.to_event()], using=using, immediate=immediate)
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
