"""The exceptions of an append that say what the log has stored.

Any other exception of an append is the log's own, such as redis-py's `TimeoutError`: then the log
has stored nothing, or everything if only its answer was lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol.events import Event


class LogUnavailable(ConnectionError):
    """Raised for a call that was not sent: a moment ago, the log did not answer another call.

    Nothing was stored. The message says since when the log does not answer, and for how many
    seconds it is not asked.
    """


class PartlyStored(Exception):
    """Raised by `append()` if the log has some or all of the events; `stored` are these events.

    They have their positions and reach their readers. Publishing them again would store them twice.
    """

    def __init__(self, text: str, stored: Sequence[Event]) -> None:
        super().__init__(text)
        self.stored = list(stored)


class NotReplicated(PartlyStored):
    """Raised if fewer replicas than `WAIT_REPLICAS` confirmed the events in time.

    All events are stored on the primary. A failover may lose them, unless a replica gets them
    first.
    """
