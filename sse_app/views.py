"""The HTTP endpoints beside the stream itself."""

from __future__ import annotations

import json
import logging
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST

from . import authorization, inbox
from .conf import settings
from .events import to_text, validate_name
from .groups import validate_group

logger = logging.getLogger("sse_app")

_NOT_WIRED = (
    "This URL is served by sse_app's consumer, and Django's own handler has been asked for it. "
    "Wrap the application in asgi.py, and serve that with an ASGI server such as daphne:\n\n"
    "    from sse_app.asgi import event_stream_application\n"
    "    application = event_stream_application(get_asgi_application())\n"
)


class _Unusable(Exception):
    def __init__(self, status: int, error: object) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


def stream(request: HttpRequest) -> HttpResponse:
    """Say what is missing in `asgi.py`: the consumer serves this route, and no view can."""
    logger.error(_NOT_WIRED)
    return HttpResponse(_NOT_WIRED, status=501, content_type="text/plain; charset=utf-8")


@csrf_protect
@require_POST
def send(request: HttpRequest) -> HttpResponse:
    """Take what a page sends up and answer what its handler returns, as JSON.

    The body is `{"group", "event", "data"}`. 400 is no such object, 403 not permitted, 404 no
    such handler, 413 too long, 415 not JSON, 422 what the handler's `ValidationError` says.
    """
    try:
        group, event, data = _message_of(request)
        if not authorization.may_speak(request.user, group, event, request):
            raise _Unusable(403, "Not permitted.")
        if not inbox.has_handler(event):
            raise _Unusable(404, f"No handler for the event {event!r}; register it with @on().")
        message = inbox.Message(request.user, group, event, data, request)
        return _answer(200, inbox.receive(message))
    except _Unusable as unusable:
        return _answer(unusable.status, {"error": unusable.error})
    except ValidationError as error:
        messages = error.message_dict if hasattr(error, "error_dict") else error.messages
        return _answer(422, {"error": messages})
    except PermissionDenied:
        return _answer(403, {"error": "Not permitted."})


def _message_of(request: HttpRequest) -> tuple[str, str, Any]:
    if request.content_type != "application/json":
        raise _Unusable(415, f"Content-Type is {request.content_type!r}, not 'application/json'.")
    most = settings().MAX_BODY_BYTES
    try:
        length = int(request.headers.get("Content-Length") or 0)
    except ValueError as error:
        raise _Unusable(400, "Content-Length is not a number.") from error
    body = b"" if length > most else request.read(most + 1)
    if length > most or len(body) > most:
        raise _Unusable(413, f"The body is longer than {most} bytes.")
    try:
        message = json.loads(body)
        to_text(message)  # JSON can spell lone surrogates, which nothing behind here can hold
        if not isinstance(message, dict):
            raise ValueError("it is no object")
        group, event = validate_group(message.get("group")), validate_name(message.get("event"))
    except (ValueError, RecursionError) as error:
        raise _Unusable(
            400, f'The body must be JSON like {{"group": …, "event": …, "data": …}}: {error}'
        ) from error
    return group, event, message.get("data")


def _answer(status: int, data: Any) -> JsonResponse:
    return JsonResponse(data, status=status, safe=False, encoder=DjangoJSONEncoder)
