"""What a view needs before it renders: the place from which the page's stream is to go on."""

from __future__ import annotations

import time

from asgiref.sync import sync_to_async

from .cursors import Cursor
from .eventlog import event_log
from .groups import validate_group


def cursor(*groups: str) -> str:
    """Return where `groups` stand now, for `{% sse_url "orders" after=position %}`.

    Call it first in the view, then read what the page shows: whatever commits after that reaches
    the page as an event. Reads the event log once. Raises `ValueError` for an invalid name.
    """
    names = [validate_group(group) for group in groups]
    now = time.time()
    return str(Cursor.of(event_log().heads(names), now))


async def acursor(*groups: str) -> str:
    """See `cursor()`."""
    return await sync_to_async(cursor)(*groups)
