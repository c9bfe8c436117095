"""The HTTP headers of an event stream, of its response and its request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django.http import HttpRequest

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
#: No cache stores a stream, no proxy changes it, and nginx forwards its bytes immediately.
NO_CACHE: Final[Mapping[str, str]] = {
    "Cache-Control": "no-cache, no-store, private, no-transform",
    "X-Accel-Buffering": "no",
}
#: Django's cache of the site stores an answer with `no-store` alone, and gives it to everybody.
NO_STORE: Final[Mapping[str, str]] = {"Cache-Control": "no-store, private"}


def header(scope: Mapping[str, Any], name: str) -> str:
    """Return the header `name` of an ASGI request, "" if it is missing.

    Several headers of this name are joined by commas. `request.headers` is not the same, because
    older versions of Django accept `X_Forwarded_For` as `X-Forwarded-For`.
    """
    wanted = name.lower().encode()
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    return ",".join(value.decode("latin1") for key, value in headers if key.lower() == wanted)


def last_event_id(request: HttpRequest) -> str:
    """Return the text of the client's last event id, valid or not; "" if it sent none.

    The header `Last-Event-ID`, else the parameter `last_event_id`, else `lastEventId`.
    """
    query = request.GET
    given = request.headers.get("Last-Event-ID") or query.get("last_event_id")
    return given or query.get("lastEventId") or ""
