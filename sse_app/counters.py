"""`COUNTS`: what happened to the streams of this process, for whoever watches it."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Final


@dataclass(slots=True)
class Counts:
    """Numbers that only grow while the process lives. Changed on the hub's loop only."""

    #: Readers that could take no more, and were left to read the log when they can again.
    lagged: int = 0
    #: Those of them that stood where the topics stand again.
    caught_up: int = 0
    #: Those that were let go, since nothing had left for `STALL_SECONDS`.
    stalled: int = 0
    #: Non-durable events that one of them did not get, for a later one of its key or too many.
    superseded: int = 0
    #: Events shown to readers: one event to a thousand streams counts a thousand.
    delivered: int = 0
    #: Bytes of the bodies of streams.
    bytes: int = 0
    #: Events that the channel layer did not bring, and that were read from the log.
    healed: int = 0
    #: How often a reader was told by `sse.reset` that what came before is lost for it.
    resets: int = 0

    def clear(self) -> None:
        """Count from nothing."""
        for field in fields(self):
            setattr(self, field.name, 0)


COUNTS: Final = Counts()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=COUNTS.clear)
