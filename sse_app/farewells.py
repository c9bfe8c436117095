"""`sse.close` and `sse.busy`: why a stream ends or does not begin, and when to reconnect."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Final

from .events import encode_control

#: Seconds after which a client that was told to close comes back, by the reason, at random.
CLOSE_RETRY: Final[Mapping[str, tuple[float, float]]] = {
    "age": (0.2, 0.5),
    "session": (0.2, 0.5),
    "shutdown": (1.0, 10.0),
    "snapshot": (15.0, 60.0),
    "expired": (3600.0, 3600.0),
    "auth": (3600.0, 3600.0),
    "end": (3600.0, 3600.0),
}
#: Seconds after which a client that was not served comes back, at random.
BUSY_RETRY: Final = (15.0, 60.0)

#: Reasons that end a stream without a farewell: nobody can read it.
UNHEARD: Final = frozenset({"disconnect", "broken", "stalled"})


def farewell(
    reason: str, id: str = "", groups: Collection[str] = (), *, retry: tuple[float, float]
) -> bytes:
    """Return `sse.close` with the reason, the time to stay away, and the groups that were lost.

    No `groups` means all groups of the stream. The time is random between the two of `retry`, in
    seconds, unless the reason has times of its own.
    """
    seconds = random.uniform(*CLOSE_RETRY.get(reason, retry))
    data: dict[str, object] = {"reason": reason}
    if groups:
        data["groups"] = list(groups)
    return encode_control("sse.close", data, id=id, retry=seconds)


def busy_block(reason: str) -> bytes:
    """Return `sse.busy`, which asks a client to come again: browsers give up for good on a 503."""
    # A server that stops has a successor, which is there as soon as for the streams that it ended.
    seconds = random.uniform(*(CLOSE_RETRY[reason] if reason == "shutdown" else BUSY_RETRY))
    return encode_control("sse.busy", {"reason": reason}, retry=seconds)
