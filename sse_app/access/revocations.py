"""`Revocation`: whose right to listen to what has ended, or must be asked for again.

`readers.apply()` applies it to the streams of this process before the call that revokes returns. To
the other processes it travels as a durable event of the reserved group `CONTROL_GROUP`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Final, Self

from ..protocol.events import Event
from ..protocol.groups import CONTROL_GROUP, validate_group
from ..protocol.replies import REPLY_EVENT
from ..runtime.telemetry import log_fields

CONTROL_EVENT: Final = "revoked"

logger = logging.getLogger("sse_app")


@dataclass(frozen=True)
class Revocation:
    """Whose streams it concerns: those of `user` (a primary key as text) or of one `session`, or
    the one `stream` (its id).

    Neither means everybody's. `group`: only this group is lost. `review`: nothing is lost yet, but
    what permitted it must be asked again. `session` is a digest, never the session's key.
    """

    user: str = ""
    session: str = ""
    group: str = ""
    review: bool = False
    stream: str = ""

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return what a control event says. Raises `ValueError` or `TypeError` if nothing."""
        fields = event.json()
        revocation = cls(**fields)
        texts = (revocation.user, revocation.session, revocation.group, revocation.stream)
        if not all(isinstance(text, str) for text in texts) or type(revocation.review) is not bool:
            raise TypeError(f"{fields!r} is no revocation")
        if revocation.group:
            validate_group(revocation.group)
        return revocation

    def to_event(self) -> Event:
        """Return the control event that says so."""
        fields = asdict(self)
        if not self.stream:
            # Processes of an older release, beside which this one may run, do not know it.
            del fields["stream"]
        return Event.of_app(CONTROL_GROUP, CONTROL_EVENT, fields)


def revocation_of(event: Event) -> Revocation | None:
    """Return what a control event revokes; None for a reply, and for what is malformed."""
    try:
        return None if event.name == REPLY_EVENT else Revocation.of(event)
    except (TypeError, ValueError) as error:
        log_malformed(error)
        return None


def log_malformed(error: Exception) -> None:
    """Log that a control event can't be read, and why."""
    logger.error("Skipped a malformed control event: %s", error, extra=log_fields(error=error))
