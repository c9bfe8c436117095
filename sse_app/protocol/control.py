"""The control events `sse.open` and `sse.close`, and how long a client stays away."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from .events import encode_control


class Sharing(NamedTuple):
    """What a client has to know that shares one stream among its pages."""

    #: The digest of the user, see `user_digest()`: only the pages of one user share a stream.
    user: str
    #: Seconds without a byte after which the connection is dead.
    heartbeat: float
    #: How many groups one stream may have.
    max_groups: int


def opening_block(
    groups: Collection[str],
    id: str,
    *,
    connection: str,
    recovered: bool,
    missed: int,
    retry: tuple[float, float],
    sharing: Sharing | None = None,
) -> bytes:
    """Return the block of `sse.open`; `id` is the cursor before the replay.

    `connection` is the connection id. `recovered` and `missed` are those of a `Start`. The client
    is told a random time between the two of `retry`, in seconds, after which it reconnects.
    """
    data: dict[str, object] = {
        "recovered": recovered,
        "missed": missed,
        "groups": list(groups),
        "connection": connection,
    }
    if sharing is not None:
        data |= sharing._asdict()
    return encode_control("sse.open", data, id=id, retry=random.uniform(*retry))


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
DISCONNECTED: Final = frozenset({"disconnect", "broken", "stalled"})


def closing_block(
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
