"""`ControlSink`: reads the control group beside each hub, for what other processes revoke."""

from __future__ import annotations

import logging

from . import readers
from .connections import REPLY_EVENT, Reply
from .control import Revocation, revocation_of, skip
from .eventlog.contract import Reason
from .events import Event
from .records import about
from .sinks import Sink

logger = logging.getLogger("sse_app")


class ControlSink(Sink):
    """Reads the control group for one hub: what other processes revoke, and replies."""

    @property
    def ready(self) -> bool:
        return True

    async def drained(self) -> None:
        """It always takes more."""

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        if event.name == REPLY_EVENT:
            try:
                readers.hand_over(Reply.from_event(event))
            except (TypeError, ValueError) as error:
                skip(error)
        elif (revocation := revocation_of(event)) is not None:
            readers.apply(revocation)

    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        logger.warning(
            "Revocations may have been missed (%s): everybody is looked at.",
            reason,
            extra=about(reason=reason),
        )
        readers.apply(Revocation(review=True))

    def passed(self, cursor: str) -> None:
        """Nothing is filtered here."""
