"""The stream that feeds the dashboard in the admin: what there is to see, every second.

It comes by rows of the database and not by a group: so it shows all processes, whatever the
channel layer is, and is there also when that is ill.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from copy import copy
from dataclasses import asdict
from typing import Any, Final

from django.http import HttpRequest

from ...access.sessions import session_by, user_of
from ...delivery.hub import Hub
from ...responses import Close
from ...runtime.callables import in_thread
from ...runtime.telemetry import log_fields
from . import poller
from .overview import MOST_GROUPS, Choice, Row

TICK_SECONDS: Final = 1.0
#: A browser that takes nothing is found out by this: what waits for it is bounded.
LIFE_SECONDS: Final = 300.0

logger = logging.getLogger("sse_app")

#: Whether the user of a request may still look. It runs in a thread.
Permits = Callable[[HttpRequest], bool]


async def feed(request: HttpRequest, permits: Permits) -> AsyncIterator[tuple[str, Any] | Close]:
    """Yield what a dashboard shows, for an `EventStreamResponse`, while `permits` says so.

    `q`, `state` and `sort` in the URL choose the streams, see `overview.Choice`. Whether the user
    still may look is asked anew each second, and while there is no answer nothing is shown.
    """
    choice, dashboard = Choice.by(request.GET.dict()), DashboardFeed()
    ends_at = time.monotonic() + LIFE_SECONDS * random.uniform(0.8, 1.2)
    while time.monotonic() < ends_at and not Hub.draining:
        began = time.monotonic()
        try:
            if not await _is_permitted(request, permits):
                yield Close("auth")
                return
            items = await asyncio.to_thread(dashboard.items, await poller.overview(), choice)
        except Exception as error:
            logger.warning(
                "What the dashboard shows can't be read: %r", error, extra=log_fields(error=error)
            )
            items = [("away", {})]
        for item in items:
            yield item
        await asyncio.sleep(max(0.0, began + TICK_SECONDS - time.monotonic()))
    yield Close("shutdown" if Hub.draining else "age")


class DashboardFeed:
    """What one dashboard was told: lists that are as they were are not sent again."""

    def __init__(self) -> None:
        self._version = -1
        self._has_begun = False

    def items(self, overview: poller.Overview, choice: Choice) -> list[tuple[str, Any]]:
        """Return the events that say `overview`."""
        items: list[tuple[str, Any]] = []
        if not self._has_begun:
            self._has_begun = True
            items.append(("chart", overview.chart))
        items.append(("totals", overview.totals))
        items.append(("processes", overview.processes))
        items.append(("groups", _shown(overview.groups)))
        if overview.version != self._version:
            self._version = overview.version
            rows, count = choice.pick(overview.opened, overview.ended)
            items.append(
                ("streams", {"rows": list(map(_row, rows)), "count": count, **asdict(choice)})
            )
        return items


def _shown(groups: list[Row]) -> Row:
    return {"rows": groups[:MOST_GROUPS], "count": len(groups)}


_LISTED: Final = (
    *("id", "process", "user", "user_key", "address", "groups", "events", "opened_at", "state"),
    *("bytes", "queue", "lag", "closed_at", "reason"),
)


def _row(row: Row) -> Row:
    return {name: row[name] for name in _LISTED}


async def _is_permitted(request: HttpRequest, permits: Permits) -> bool:
    # In a thread of its own: the request's would keep its connection to the database.
    answer = await in_thread(_permitted_now, request, permits, thread_sensitive=False)
    return answer is True


def _permitted_now(request: HttpRequest, permits: Permits) -> bool:
    """Ask with the session and the user as they are now in the database."""
    now = copy(request)
    now.session = session_by(request.session.session_key)
    now.user, _moves = user_of(now.session)
    return permits(now)
