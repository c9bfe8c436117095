"""`about()`: the fields that log records of the app carry beside their text.

They are attributes of the record, so any JSON formatter writes them, and none of them opens
anything: no grant, token, session key or query string is ever among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .identity import process_name


def about(
    *,
    stream: str | None = None,
    user: str | None = None,
    address: str | None = None,
    group: str | None = None,
    groups: Iterable[str] | None = None,
    event: str | None = None,
    events: int | None = None,
    reason: str | None = None,
    seconds: float | None = None,
    bytes: int | None = None,
    error: BaseException | None = None,
) -> dict[str, Any]:
    """Return the fields for `extra=`: those that are given, named `sse_…`, and `sse_process`.

    `stream`: its id. `user`: a primary key as text, or a token's name such as "token:5". `group`
    or `groups`: their names. `event`: its name; `events`: how many. `error`: its type is named.
    """
    given = {
        "stream": stream,
        "user": user,
        "address": address,
        "group": group,
        "groups": None if groups is None else sorted(groups),
        "event": event,
        "events": events,
        "reason": reason,
        "seconds": None if seconds is None else round(seconds, 3),
        "bytes": bytes,
        "error": None if error is None else type(error).__name__,
    }
    found = {f"sse_{name}": value for name, value in given.items() if value is not None}
    return {"sse_process": process_name(), **found}
