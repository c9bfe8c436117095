"""Streams and readers without a client, for tests of what looks at them."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser

from sse_app.access.admission import Access
from sse_app.access.limits import LIMITS, Slots
from sse_app.access.readers import Reader
from sse_app.delivery.hub import Hub
from sse_app.delivery.streams import Stream
from sse_app.delivery.transports.asgi import AsgiTransport


def new_stream(hub: Hub, access: Access) -> Stream:
    """Return a stream that has not begun, as a consumer makes it for `access`."""
    return Stream(
        hub,
        AsgiTransport(None, None),  # type: ignore[arg-type]
        access.groups,
        user=access.user,
        user_key=access.user_key,
        until=access.until,
        sender=object,
        life=60,
    )


def new_reader(
    hub: Hub, user: Any = None, *, groups: tuple[str, ...] = ("g",), **access: Any
) -> Reader:
    """Return a reader whose stream has not begun; `access` are further fields of its `Access`."""
    made = Access(user or AnonymousUser(), groups, **access)
    return Reader(new_stream(hub, made), made, Slots(LIMITS))
