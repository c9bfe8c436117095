"""How fast one speaker may ask: `SPEAK_RATE` and `SPEAK_BURST`, per process."""

from __future__ import annotations

import math
from typing import Any

from django.http import HttpRequest

from . import rates
from .addresses import client_address
from .bodies import Refusal
from .conf import settings


def slow_down(request: HttpRequest) -> None:
    """Raise `Refusal` 429 with `Retry-After` for who asks too fast.

    To be called before the body is read, and for what will be refused too: asking costs as much
    as speaking.
    """
    wait = rates.speaking.take(
        _bucket(request), rate=settings().SPEAK_RATE, burst=settings().SPEAK_BURST
    )
    if wait > 0:
        raise Refusal(
            429,
            f"Too fast: {settings().SPEAK_RATE:g} messages per second are possible, "
            f"{settings().SPEAK_BURST:g} at once.",
            {"Retry-After": str(math.ceil(wait))},
        )


def _bucket(request: HttpRequest) -> str:
    if request.user.is_authenticated:
        return f"user {request.user.pk}"
    session = getattr(request, "session", None)
    # A forged session key has no data behind it, and must not be a bucket of its own.
    if session is not None and session.session_key and list(session.keys()):
        return f"session {session.session_key}"
    scope: Any = getattr(request, "scope", None)
    address = request.META.get("REMOTE_ADDR", "") if scope is None else client_address(scope).key
    return f"address {address}"
