"""How fast one speaker may ask: `SPEAK_RATE` and `SPEAK_BURST`, per process."""

from __future__ import annotations

import math

from django.http import HttpRequest

from . import rates
from .addresses import SITE_SHARE, address_of
from .conf import settings
from .refusals import Refused


def slow_down(request: HttpRequest) -> None:
    """Raise `Refused` 429 with `Retry-After` for who asks too fast.

    To be called before the body is read, and for what will be refused too: asking costs as much
    as speaking.
    """
    wait = rates.speaking.take(
        _shares(request), rate=settings().SPEAK_RATE, burst=settings().SPEAK_BURST
    )
    if wait > 0:
        raise Refused(
            429,
            f"Too fast: {settings().SPEAK_RATE:g} messages per second are possible, "
            f"{settings().SPEAK_BURST:g} at once.",
            {"Retry-After": str(math.ceil(wait))},
        )


def _shares(request: HttpRequest) -> dict[str, int]:
    """Return the buckets of a request, each with its multiple of one speaker's rate."""
    if request.user.is_authenticated:
        return {f"user {request.user.pk}": 1}
    addresses = address_of(request).shares
    session = getattr(request, "session", None)
    # A forged session key has no data behind it, and must not be a bucket of its own.
    if session is None or not session.session_key or not list(session.keys()):
        return {f"address {key}": share for key, share in addresses.items()}
    # A client that drops its cookie gets another session, but keeps its address.
    sessions = {f"sessions at {key}": share * SITE_SHARE for key, share in addresses.items()}
    return {f"session {session.session_key}": 1, **sessions}
