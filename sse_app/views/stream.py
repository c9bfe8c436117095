"""The stream's URL under Django's own handler: explains the missing line in `asgi.py`."""

from __future__ import annotations

import logging

from django.http import HttpRequest, HttpResponse

from ..runtime.telemetry import log_fields

logger = logging.getLogger("sse_app")

_NOT_WIRED = (
    "This URL is served by sse_app's consumer, but Django's own handler got the request. "
    "Wrap the application in asgi.py, and serve it with an ASGI server such as daphne:\n\n"
    "    from sse_app.asgi import event_stream_application\n"
    "    application = event_stream_application(get_asgi_application())\n\n"
    "If it is wrapped: 'runserver' serves it only with \"daphne\" first in INSTALLED_APPS.\n"
)


def stream(request: HttpRequest) -> HttpResponse:
    """Answer 501 and explain `asgi.py`: only the consumer can serve this route."""
    logger.error(_NOT_WIRED, extra=log_fields())
    return HttpResponse(_NOT_WIRED, status=501, content_type="text/plain; charset=utf-8")
