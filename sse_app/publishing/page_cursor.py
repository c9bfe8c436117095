"""For views: `cursor()`, after which a page's stream starts, and `live_part()`."""

from __future__ import annotations

import time

from django.http import HttpRequest

from ..conf import namespace
from ..eventlog import event_log
from ..protocol.cursors import encode_cursor
from ..protocol.groups import Group, full_name
from ..runtime.callables import blocking, in_callers_thread
from ..runtime.transactions import in_transaction
from . import outbox


@blocking
def cursor(*groups: Group) -> str:
    """Return a cursor at the heads of `groups`, for `{% sse_stream "orders" after=position %}`.

    Call it first in the view, then read the rows for the page: changes that commit later reach the
    page as events, and changes that the page shows do not. One exception: inside a transaction on
    the log's database (`ATOMIC_REQUESTS`), an event that was committed a few milliseconds ago may
    arrive although the page shows its change. Numbering it here would make other publishers wait.

    Reads the event log, and numbers staged events unless in a transaction. Raises `ValueError` for
    an invalid name.
    """
    names = [full_name(group, namespace()) for group in groups]
    log = event_log()
    if log.alias is not None and not in_transaction(log.alias):
        # The page shows committed changes, so their events must be before the page's position.
        outbox.send(log.number(names))
    now = time.time()
    return encode_cursor(log.heads(names), now)


async def acursor(*groups: Group) -> str:
    """See `cursor()`."""
    return await in_callers_thread(cursor, *groups)


def live_part(request: HttpRequest | None) -> str:
    """Return the id of the only part of the page that this request needs, else "".

    The page's script loads a part of `{% live %}` by the page's own URL, with the id in the header
    `Sse-Live`. The view may answer with the whole page, or with any HTML that has the part. A view
    whose answers a cache keeps needs `@vary_on_headers("Sse-Live")`.
    """
    return "" if request is None else request.headers.get("Sse-Live", "")
