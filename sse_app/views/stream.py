"""The stream's own URL: what Django says where the consumer does not serve it."""

from __future__ import annotations

import logging

from django.http import HttpRequest, HttpResponse

from ..runtime.telemetry import log_fields

logger = logging.getLogger("sse_app")

_NOT_WIRED = (
    "This URL is served by sse_app's consumer, and Django's own handler has been asked for it. "
    "Wrap the application in asgi.py, and serve that with an ASGI server such as daphne:\n\n"
    "    from sse_app.asgi import event_stream_application\n"
    "    application = event_stream_application(get_asgi_application())\n\n"
    "If it is: 'runserver' serves it only with \"daphne\" first in INSTALLED_APPS.\n"
)


def stream(request: HttpRequest) -> HttpResponse:
    """Say what is missing in `asgi.py`: the consumer serves this route, and no view can."""
    logger.error(_NOT_WIRED, extra=log_fields())
    return HttpResponse(_NOT_WIRED, status=501, content_type="text/plain; charset=utf-8")
