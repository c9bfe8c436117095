"""Control events such as `sse.open` and `sse.close`, and when a client reconnects."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from .events import encode_control
from .groups import own_name


class Sharing(NamedTuple):
    """The data of `sse.open` for a client that shares one stream among its pages."""

    #: See `user_digest()`: only the pages of one user share a stream.
    user: str
    #: Seconds without a byte after which the connection is dead.
    heartbeat: float
    #: The most groups of one stream.
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

    `connection` is the connection id. `recovered` and `missed`: see `Start`. The field `retry:` of
    the block is a random time between the two values of `retry`, in seconds.
    """
    data: dict[str, object] = {
        "recovered": recovered,
        "missed": missed,
        "groups": [*map(own_name, groups)],
        "connection": connection,
    }
    if sharing is not None:
        data |= sharing._asdict()
    return encode_control("sse.open", data, id=id, retry=random.uniform(*retry))


def reset_block(group: str, reason: str, id: str) -> bytes:
    """Return the block of `sse.reset`; `id` is the new cursor."""
    return encode_control("sse.reset", {"group": own_name(group), "reason": reason}, id=id)


#: By the reason of `sse.close`: after how many seconds a client reconnects; a random time between.
CLOSE_RETRY: Final[Mapping[str, tuple[float, float]]] = {
    "age": (0.2, 0.5),
    "session": (0.2, 0.5),
    "shutdown": (1.0, 10.0),
    "snapshot": (15.0, 60.0),
    "expired": (3600.0, 3600.0),
    "auth": (3600.0, 3600.0),
    "end": (3600.0, 3600.0),
}
#: After how many seconds a client that got `sse.busy` reconnects; a random time between.
BUSY_RETRY: Final = (15.0, 60.0)

#: Reasons that end a stream without `sse.close`, because the client can't read it.
DISCONNECTED: Final = frozenset({"disconnect", "broken", "stalled"})


def closing_block(
    reason: str, id: str = "", groups: Collection[str] = (), *, retry: tuple[float, float]
) -> bytes:
    """Return the block of `sse.close`; `groups` are those that end, all of the stream if empty.

    The field `retry:` is a random time between the two values in `CLOSE_RETRY` for the reason, else
    of `retry`, in seconds.
    """
    seconds = random.uniform(*CLOSE_RETRY.get(reason, retry))
    data: dict[str, object] = {"reason": reason}
    if groups:
        data["groups"] = [*map(own_name, groups)]
    return encode_control("sse.close", data, id=id, retry=seconds)


def busy_block(reason: str, hint: str = "") -> bytes:
    """Return the block of `sse.busy`: a client then reconnects, which no browser does after 503.

    `hint`, if it is not empty, is for developers.
    """
    # A server that stops has a successor, which serves new requests as soon as closed streams.
    seconds = random.uniform(*(CLOSE_RETRY[reason] if reason == "shutdown" else BUSY_RETRY))
    data = {"reason": reason, "hint": hint} if hint else {"reason": reason}
    return encode_control("sse.busy", data, retry=seconds)
