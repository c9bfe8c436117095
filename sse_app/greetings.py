"""`sse.open`: the first event of a stream."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import NamedTuple

from .events import encode_control


class Sharing(NamedTuple):
    """What a client has to know that shares one stream among its pages."""

    #: The digest of the user, see `user_digest()`: only the pages of one user share a stream.
    user: str
    #: Seconds without a byte after which the connection is dead.
    heartbeat: float
    #: How many groups one stream may have.
    max_groups: int


def greeting(
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
