"""The app's own Django signals.

* `event_published(sender, event)`: an event was handed to the channel layer, after its commit.
* `stream_opened(sender, stream)`, `stream_closed(sender, stream)`: a client's stream, which has
  `groups`, `user`, `address`, `opened_at` and, when closed, `close_reason`.
* `stream_lost_group(sender, stream, group)`: the right to one of an open stream's groups ended.
* `message_received(sender, message)`: a page sent something up and its handler is about to run.

Receivers may be sync or async. What they raise is logged, never passed on.
"""

from __future__ import annotations

from django.dispatch import Signal

event_published = Signal()
stream_opened = Signal()
stream_closed = Signal()
stream_lost_group = Signal()
message_received = Signal()
