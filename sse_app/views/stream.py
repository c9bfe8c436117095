"""The stream's URL under Django's own handler: leaves it to the consumer, or explains `asgi.py`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from ..runtime.telemetry import log_fields

#: The extension of the scope by which `asgi` offers to serve the request by the consumer.
LEAVE: Final = "sse_app.leave"

logger = logging.getLogger("sse_app")

_NOT_WIRED = (
    "This URL is served by sse_app's consumer, but Django's own handler got the request. "
    "Wrap the application in asgi.py, and serve it with an ASGI server such as daphne:\n\n"
    "    from sse_app.asgi import event_stream_application\n"
    "    application = event_stream_application(get_asgi_application())\n\n"
    "If it is wrapped: 'runserver' serves it only with \"daphne\" first in INSTALLED_APPS.\n"
)


def stream(request: HttpRequest) -> HttpResponse:
    """Leave the request to the consumer; where `asgi` is not in use, answer 501 and explain it."""
    scope: Mapping[str, Any] = getattr(request, "scope", {})
    leave = (scope.get("extensions") or {}).get(LEAVE)
    if leave is not None:
        leave()
        return HttpResponse()  # Not sent.
    logger.error(_NOT_WIRED, extra=log_fields())
    return HttpResponse(_NOT_WIRED, status=501, content_type="text/plain; charset=utf-8")
