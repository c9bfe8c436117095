"""`sse.close`: what a stream says when it is ended on purpose, and how long to stay away."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import Final

from .conf import settings
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


#: Reasons that end a stream without a farewell: nobody can read it.
UNHEARD: Final = frozenset({"disconnect", "broken", "stalled"})


def farewell(reason: str, id: str = "", groups: Collection[str] = ()) -> bytes:
    """Return `sse.close` with the reason, how long to stay away, and the groups that were lost.

    Without `groups` it is about all groups of the stream.
    """
    retry = random.uniform(*CLOSE_RETRY.get(reason, settings().RETRY))
    data: dict[str, object] = {"reason": reason}
    if groups:
        data["groups"] = list(groups)
    return encode_control("sse.close", data, id=id, retry=retry)
