"""Messages from pages: handlers by event name, registered with `on()`, removed with `off()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.http import HttpRequest

from .. import signals
from ..conf import settings
from ..protocol.events import validate_published
from ..protocol.replies import Reply
from ..runtime.callables import blocking, call_from_sync, in_callers_thread
from . import publish

Handler = TypeVar("Handler", bound=Callable[..., Any])

_handlers: dict[str, list[Callable[..., Any]]] = {}


@dataclass(frozen=True)
class Message:
    """One message from a page. `user` comes from the session, never from the page.

    `stream` is the id of the page's stream; it is empty if the page sent none, or the id of another
    user's stream. `tab` distinguishes the tabs that share the stream. See `reply()`.
    """

    user: Any
    group: str
    event: str
    data: Any
    request: HttpRequest
    stream: str = ""
    tab: str = ""


def on(event: str) -> Callable[[Handler], Handler]:
    """Register the decorated function, sync or async, for the messages `event` of pages.

    The function is called with a `Message` and returns the JSON answer (of several handlers, the
    first answer that is not None). If it raises `ValidationError`, the answer is 422. For a
    message with an idempotency key it runs inside `transaction.atomic()`. `on()` raises
    `ValueError` for an invalid or reserved event name.
    """
    validate_published(event)

    def register(handler: Handler) -> Handler:
        handlers = _handlers.setdefault(event, [])
        if handler not in handlers:
            handlers.append(handler)
        return handler

    return register


def off(event: str, handler: Callable[..., Any]) -> None:
    """Remove `handler` from `event`, if it is registered."""
    handlers = _handlers.get(event, [])
    if handler in handlers:
        handlers.remove(handler)


def has_handler(event: str) -> bool:
    """Return whether a handler is registered for `event`."""
    return bool(_handlers.get(event))


def receive(message: Message) -> Any:
    """Call the handlers of `message` in the order of their registration; return their answer."""
    signals.message_received.send_robust(sender=Message, message=message)
    answer = None
    for handler in list(_handlers.get(message.event, [])):
        result = call_from_sync(handler, message)
        answer = result if answer is None else answer
    return answer


@blocking
def reply(
    message: Message,
    event: str,
    data: object = "",
    *,
    key: str | None = None,
    using: str | None = None,
    immediate: bool = False,
) -> bool:
    """Send one event to the stream of the page that sent `message`, and to no other stream.

    For results that come later than the handler's answer: the progress of a task, or its result.
    `data`, `key`, `using` and `immediate` are those of `publish()` for an event that is not
    durable: it has no id, is never replayed, and leaves with the surrounding transaction unless
    `immediate=True`. With the in-memory layer it reaches streams of this process only. If
    several tabs share the stream by the app's script, only the tab that sent `message` gets it.

    Returns False, and sends nothing, if the page did not name its stream. A sent event is lost if
    the connection has ended. Raises `ValueError` and `TypeError` as `publish()` does.
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
    """See `reply()`. Runs in the thread of Django's async database calls."""
    return await in_callers_thread(
        reply, message, event, data, key=key, using=using, immediate=immediate
    )
