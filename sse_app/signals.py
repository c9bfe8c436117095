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

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from django import dispatch

from .conf import settings
from .runtime import surroundings
from .runtime.callables import contained, containing, containing_async, in_thread
from .runtime.surroundings import surrounded
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

    async def asend_robust(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
        """See Django's `Signal.asend_robust()`."""
        for receiver in self._own:
            try:
                receiver(sender, **named)
            except Exception as error:
                text = "A receiver of the app failed: %r"
                logger.exception(text, error, extra=log_fields(error=error))
        found: Any = super()
        sync_receivers, async_receivers = found._live_receivers(sender)
        # Django would call sync receivers in the one thread that all async code shares.
        calls = [(receiver, _call_in_thread) for receiver in sync_receivers]
        calls += [(receiver, _await) for receiver in async_receivers]
        named |= {"signal": self, "sender": sender}
        if len(calls) == 1:  # Most often, and without a task it takes a fraction of the time.
            return [await self._outcome(*calls[0], named)]
        return await asyncio.gather(*(self._outcome(*one, named) for one in calls))

    async def _outcome(
        self, receiver: Any, call: Callable[..., Awaitable[Any]], named: dict[str, Any]
    ) -> tuple[Any, Any]:
        try:
            return receiver, await call(receiver, **named)
        except Exception as error:
            name = getattr(receiver, "__qualname__", receiver)
            text = "The receiver %s of a signal failed: %r"
            logger.exception(text, name, error, extra=log_fields(error=error))
            return receiver, error

    # Django has no public hook between finding the receivers and calling them. `connect()` can't
    # wrap a receiver: a signal keeps it weakly, and `disconnect()` finds it by identity.
    # tests/runtime/test_callables.py fails if Django renames this private method.
    def _live_receivers(self, sender: Any) -> tuple[list[Any], list[Any]]:
        found: Any = super()
        receivers, async_receivers = found._live_receivers(sender)
        return [*map(containing, receivers)], [*map(containing_async, async_receivers)]


async def _await(receiver: Callable[..., Awaitable[Any]], **named: Any) -> Any:
    if surroundings.are_set():
        return await _call_in_thread(receiver, **named)
    with contained():
        return await receiver(**named)


async def _call_in_thread(receiver: Callable[..., Any], **named: Any) -> Any:
    work = surrounded(partial(receiver, **named))
    return await in_thread(work, threads=_threads, seconds=settings().POLICY_SECONDS)


event_published = Signal()
stream_opened = Signal()
stream_closed = Signal()
stream_lost_group = Signal()
message_received = Signal()
