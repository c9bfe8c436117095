"""What the endpoints are sent and answer: a JSON object within limits, and JSON back."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final

from django.core.serializers.json import DjangoJSONEncoder
from django.http import HttpRequest, HttpResponse

from .conf import settings
from .events import to_text
from .records import about

logger = logging.getLogger("sse_app")

#: Beyond what any event needs, and far below where a parser or an encoder runs out of stack.
MAX_DEPTH: Final = 32
#: Seconds after which what was not possible may be.
RETRY_AFTER: Final = 5

# A string or a bracket. A string may be cut off and nothing in it is tried twice: else a body of
# quotes would cost the square of its length.
_TOKEN: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


class Refusal(Exception):
    """A request that gets an error: its `status`, the JSON under `"error"`, further headers."""

    def __init__(
        self, status: int, error: object, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.headers = headers or {}

    def response(self) -> HttpResponse:
        """Return the answer."""
        answer = json_response(self.status, to_json({"error": self.error}))
        for name, value in self.headers.items():
            answer[name] = value
        return answer


def answers_refusals(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Decorate a sync view so that a `Refusal` raised in it is its answer."""

    @wraps(view)
    def answering(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except Refusal as refusal:
            return refusal.response()

    return answering


def away() -> Refusal:
    """Return the refusal of what may be possible in a moment."""
    return Refusal(503, "Not possible right now.", {"Retry-After": str(RETRY_AFTER)})


def demand(permitted: Callable[[], bool]) -> None:
    """Raise `Refusal`: 403 unless `permitted()`, 503 where the policy behind it fails."""
    try:
        answer = permitted()
    except Exception as error:
        logger.exception("The policy that decides failed.", extra=about(error=error))
        raise away() from error
    if not answer:
        raise Refusal(403, "Not permitted.")


def to_json(value: object) -> str:
    """Return `value` as ASCII JSON by Django's encoder; raises `TypeError` for what it can't be."""
    return json.dumps(value, cls=DjangoJSONEncoder)


def json_response(status: int, text: str) -> HttpResponse:
    """Return a response with `text`, which is JSON already."""
    return HttpResponse(text, status=status, content_type="application/json")


def read_object(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON object in the body of `request`.

    Raises `Refusal`: 415 for another content type, 413 beyond `MAX_BODY_BYTES`, 400 for what is
    no JSON object, nests deeper than `MAX_DEPTH`, or has what UTF-8 and JSON can't hold (lone
    surrogates, NaN, infinity).
    """
    if request.content_type != "application/json":
        raise Refusal(415, f"Content-Type is {request.content_type!r}, not 'application/json'.")
    try:
        text = _read(request).decode("utf-8-sig")
        _refuse_depth(text)
        body = json.loads(text)
        to_text(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"The body is not usable JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refusal(400, f"The body must be a JSON object, not {type(body).__name__}.")
    return body


def _read(request: HttpRequest) -> bytes:
    most = settings().MAX_BODY_BYTES
    try:
        length = int(request.headers.get("Content-Length") or 0)
    except ValueError as error:
        raise Refusal(400, "Content-Length is not a number.") from error
    # The length said is not the length sent, so both are checked.
    body = b"" if length > most else request.read(most + 1)
    if length > most or len(body) > most:
        raise Refusal(413, f"The body is longer than {most} bytes.")
    return body


def _refuse_depth(text: str) -> None:
    """Count brackets before anything parses them: a parser recurses, and so may its users."""
    depth = 0
    for token in _TOKEN.finditer(text):
        first = token[0][0]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"it nests deeper than {MAX_DEPTH} levels.")
        elif first in "]}":
            depth -= 1
