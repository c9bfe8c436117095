"""What pages send up: handlers by event name, registered with `on()`, removed with `off()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.http import HttpRequest

from . import signals
from .callables import call_from_sync
from .events import validate_published

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
