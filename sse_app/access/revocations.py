"""`Revocation`: a right to listen has ended, or the policy must be asked for it again.

`readers.apply()` applies a revocation to the streams of this process before the revoking call
returns. The other processes get it as a durable event of the reserved group `CONTROL_GROUP`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Final, Self

from ..protocol.events import Event
from ..protocol.groups import CONTROL_GROUP, validate_full
from ..protocol.replies import REPLY_EVENT
from ..publishing.waking import WAKE_EVENT
from ..runtime.telemetry import log_fields

CONTROL_EVENT: Final = "revoked"

logger = logging.getLogger("sse_app")


@dataclass(frozen=True)
class Revocation:
    """Concerns the streams of `user` (a primary key as text), of `session` or with the id `stream`.

    Without these three, it concerns all streams. `group`: only this group is lost. `review`: no
    right is lost yet, but the policy must be asked again. `session` is a digest of the session's
    name, never the key.
    """

    user: str = ""
    session: str = ""
    group: str = ""
    review: bool = False
    stream: str = ""

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read a control event. Raises `ValueError` or `TypeError` if it is invalid."""
        fields = event.json()
        revocation = cls(**fields)
        texts = (revocation.user, revocation.session, revocation.group, revocation.stream)
        if not all(isinstance(text, str) for text in texts) or type(revocation.review) is not bool:
            raise TypeError(f"{fields!r} is not a revocation")
        if revocation.group:
            validate_full(revocation.group)
        return revocation

    def to_event(self, durable: bool = True) -> Event:
        """Return the control event of this revocation."""
        fields = asdict(self)
        if not self.stream:
            # Processes of an older release do not know the field, and may run at the same time.
            del fields["stream"]
        key = None if durable else self.user  # Only another one of the same user replaces it.
        return Event.of_app(CONTROL_GROUP, CONTROL_EVENT, fields, durable=durable, key=key)


def revocation_of(event: Event) -> Revocation | None:
    """Return the revocation in a control event; None for other and malformed events."""
    if event.name in (REPLY_EVENT, WAKE_EVENT):
        return None
    try:
        return Revocation.of(event)
    except (TypeError, ValueError) as error:
        log_malformed(error)
        return None


def log_malformed(error: Exception) -> None:
    """Log the error of a malformed control event."""
    logger.error("Skipped a malformed control event: %s", error, extra=log_fields(error=error))
