"""What a stream says first: `sse.open`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .conf import settings
from .connections import connection_id, user_digest
from .events import encode_control

if TYPE_CHECKING:
    from .replay import Start
    from .topics import Kind


def greeting(start: Start, kind: Kind, id: str, *, stream: str, user: str) -> bytes:
    """Return the block of `sse.open`; `id` is the place before the replay.

    `stream` is the stream's id and `user` its `user_key`: both are in the connection id.
    """
    limits = settings()
    groups, labelled = kind
    data = {
        "recovered": start.recovered,
        "missed": start.missed,
        "groups": list(groups),
        "connection": connection_id(stream, user),
    }
    if labelled:
        # For a client that shares its stream: the user whose pages may share it, the time after
        # which silence means a dead connection, and how many groups it may ask for.
        data |= {"user": user_digest(user)}
        data |= {"heartbeat": limits.HEARTBEAT, "max_groups": limits.MAX_GROUPS}
    return encode_control("sse.open", data, id=id, retry=random.uniform(*limits.RETRY))
