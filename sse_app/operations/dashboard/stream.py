"""The stream of the dashboard in the admin: an overview every second.

Its data are rows of the database and not events of a group. So the dashboard shows all processes
with any channel layer, and also while the channel layer does not work.
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
from ...conf import settings
from ...delivery.hub import Hub
from ...responses import Close
from ...runtime.callables import in_thread
from ...runtime.telemetry import log_fields
from ...runtime.threads import STORE
from . import poller
from .overview import MOST_GROUPS, Choice, Row

TICK_SECONDS: Final = 1.0
#: Bounds the data that waits for a browser that reads nothing.
LIFE_SECONDS: Final = 300.0

logger = logging.getLogger("sse_app")

#: Whether the user of a request may see the dashboard. Called in a thread.
Permits = Callable[[HttpRequest], bool]


async def feed(request: HttpRequest, permits: Permits) -> AsyncIterator[tuple[str, Any] | Close]:
    """Yield the data of a dashboard, for an `EventStreamResponse`, as long as `permits` is True.

    `q`, `state` and `sort` in the URL choose the streams, see `overview.Choice`. The permission is
    checked again each second; while that is not possible, only `away` is sent.
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
                "The data of the dashboard can't be read: %r", error, extra=log_fields(error=error)
            )
            items = [("away", {})]
        for item in items:
            yield item
        await asyncio.sleep(max(0.0, began + TICK_SECONDS - time.monotonic()))
    yield Close("shutdown" if Hub.draining else "age")


class DashboardFeed:
    """The state of one dashboard's stream: an unchanged list of streams is not sent again."""

    def __init__(self) -> None:
        self._version = -1
        self._has_begun = False

    def items(self, overview: poller.Overview, choice: Choice) -> list[tuple[str, Any]]:
        """Return the events, name and data, that show `overview`."""
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
    # Not in the thread of the request, which would keep its connection to the database open.
    answer = await in_thread(
        _permitted_now, request, permits, threads=STORE, seconds=settings().POLICY_SECONDS
    )
    return answer is True


def _permitted_now(request: HttpRequest, permits: Permits) -> bool:
    """Check with the session and the user that the database has now."""
    now = copy(request)
    now.session = session_by(request.session.session_key)
    now.user, _moves = user_of(now.session)
    return permits(now)
