"""What a view needs before it renders: the place from which the page's stream is to go on."""

from __future__ import annotations

import time

from asgiref.sync import sync_to_async
from django.db import connections

from ..eventlog import event_log
from ..protocol.cursors import START, encode_cursor
from ..protocol.groups import validate_group
from . import outbox


def cursor(*groups: str) -> str:
    """Return where `groups` stand now, for `{% sse_stream "orders" after=position %}`.

    Call it first in the view, then read what the page shows: whatever commits after that reaches
    the page as an event, and nothing that it shows does. Only inside a transaction on the log's
    database (`ATOMIC_REQUESTS`) an event whose own commit is a few milliseconds old may come
    again: it could not be numbered here without holding up other publishers.

    Reads the event log. Raises `ValueError` for an invalid name.
    """
    names = [validate_group(group) for group in groups]
    log = event_log()
    if log.alias is not None and not connections[log.alias].in_atomic_block:
        # What has been committed is on the page, so it must stand before the page's position.
        outbox.send(log.number(names))
    now, heads = time.time(), log.heads(names)
    if START in heads.values():
        now = max(now, log.began())  # It begins now, if nothing else has ever asked.
    return encode_cursor(heads, now)


async def acursor(*groups: str) -> str:
    """See `cursor()`."""
    return await sync_to_async(cursor)(*groups)
