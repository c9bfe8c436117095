"""The app's own Django signals.

* `event_published(sender, event)`: an event was handed to the channel layer, after its commit.
* `stream_opened(sender, stream)`, `stream_closed(sender, stream)`: a client's stream, which has
  `groups`, `user`, `address`, `opened_at` and, when closed, `close_reason`.
* `stream_lost_group(sender, stream, group)`: the right to one group of an open stream has ended.
* `message_received(sender, message)`: a page has sent a message and its handler is about to run.

Receivers may be sync or async. Their exceptions are logged and never raised.
"""

from __future__ import annotations

from typing import Any

from django import dispatch

from .runtime.callables import containing, containing_async

__all__ = [
    "event_published",
    "message_received",
    "stream_closed",
    "stream_lost_group",
    "stream_opened",
]


class Signal(dispatch.Signal):
    """A signal whose receivers may raise anything, even `SystemExit` and `CancelledError`.

    Django logs an `Exception` but raises others, which would end the server or the stream.
    """

    # Django has no public hook between finding the receivers and calling them. `connect()` can't
    # wrap a receiver: a signal keeps it weakly, and `disconnect()` finds it by identity.
    # tests/runtime/test_callables.py fails if Django renames this private method.
    def _live_receivers(self, sender: Any) -> tuple[list[Any], list[Any]]:
        found: Any = super()
        receivers, async_receivers = found._live_receivers(sender)
        return [*map(containing, receivers)], [*map(containing_async, async_receivers)]


event_published = Signal()
stream_opened = Signal()
stream_closed = Signal()
stream_lost_group = Signal()
message_received = Signal()
