"""`wake_processes()`: an event of the control group that wakes the duties of all processes.

The event reaches the processes that have streams. The others find changed rows when their duties
are due.
"""

from __future__ import annotations

import logging
from typing import Final

from django.db import transaction

from ..protocol.events import Event
from ..protocol.groups import CONTROL_GROUP
from ..runtime.duties import DUTIES
from ..runtime.telemetry import log_fields
from .publish import publish_events

WAKE_EVENT: Final = "wake"
#: A process of an older release takes all control events for revocations: this one asks it to
#: review the streams of a session that does not exist.
NOTHING_REVOKED: Final = {"session": "none", "review": True}

logger = logging.getLogger("sse_app")


def wake_processes(*, using: str) -> None:
    """Wake the duties of all processes, after the commit of a transaction on the database `using`.

    For code that has changed rows on which duties depend. Never raises: if the event log fails,
    the other processes call their duties after `NET_SECONDS`.
    """
    event = Event.of_app(CONTROL_GROUP, WAKE_EVENT, NOTHING_REVOKED)
    transaction.on_commit(DUTIES.wake, using=using)
    try:
        publish_events([event], using=using)
    except Exception as error:
        logger.warning(
            "The other server processes can't be told of a change, and find it in a minute: %r",
            error,
            extra=log_fields(error=error),
        )
