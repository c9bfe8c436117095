"""The app's own Django signals.

* `event_published(sender, event)`: an event was handed to the channel layer, after its commit.
* `stream_opened(sender, stream)`, `stream_closed(sender, stream)`: a client's stream, which has
  `groups`, `user`, `address`, `opened_at` and, when closed, `close_reason`.
* `stream_lost_group(sender, stream, group)`: the right to one group of an open stream has ended.
* `message_received(sender, message)`: a page has sent a message and its handler is about to run.

Receivers may be sync or async. Their exceptions are logged and never raised. A sync receiver of a
stream's signal runs in a thread and has `POLICY_SECONDS`; several may run at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Final

from django import dispatch

from .conf import settings
from .runtime.callables import containing, containing_async, in_thread
from .runtime.telemetry import log_fields
from .runtime.threads import Threads

__all__ = [
    "event_published",
    "message_received",
    "stream_closed",
    "stream_lost_group",
    "stream_opened",
]


logger = logging.getLogger("sse_app")

#: Whether the signal is sent by `asend_robust()`.
_is_async: Final = ContextVar("sse_app.signals", default=False)
_threads: Final = Threads()


class Signal(dispatch.Signal):
    """A signal whose receivers may raise anything, even `SystemExit` and `CancelledError`.

    Django logs an `Exception` but raises others, which would end the server or the stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self._own: list[Callable[..., None]] = []

    def connect_own(self, receiver: Callable[..., None]) -> None:
        """Have `asend_robust()` call a receiver of the app itself, which never blocks, first.

        Django would create a task for each receiver of each stream. Safe to call twice.
        """
        if receiver not in self._own:
            self._own.append(receiver)

    async def asend_robust(self, sender: Any, **named: Any) -> Any:
        """See Django's `Signal.asend_robust()`."""
        for receiver in self._own:
            try:
                receiver(sender, **named)
            except Exception as error:
                text = "A receiver of the app failed: %r"
                logger.exception(text, error, extra=log_fields(error=error))
        token = _is_async.set(True)
        try:
            return await super().asend_robust(sender, **named)
        finally:
            _is_async.reset(token)

    # Django has no public hook between finding the receivers and calling them. `connect()` can't
    # wrap a receiver: a signal keeps it weakly, and `disconnect()` finds it by identity.
    # tests/runtime/test_callables.py fails if Django renames this private method.
    def _live_receivers(self, sender: Any) -> tuple[list[Any], list[Any]]:
        found: Any = super()
        receivers, async_receivers = found._live_receivers(sender)
        contained = [*map(containing_async, async_receivers)]
        if _is_async.get():
            # Else Django calls them in the one thread that all async code shares.
            return [], [*map(_in_own_thread, receivers), *contained]
        return [*map(containing, receivers)], contained


def _in_own_thread(receiver: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(receiver)
    async def call(**named: Any) -> Any:
        work = partial(receiver, **named)
        return await in_thread(work, threads=_threads, seconds=settings().POLICY_SECONDS)

    return call


event_published = Signal()
stream_opened = Signal()
stream_closed = Signal()
stream_lost_group = Signal()
message_received = Signal()
