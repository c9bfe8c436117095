"""The server processes of a site: each writes a report about itself to its row of `ServerProcess`.

A row is written every five seconds, or every second while a dashboard is open, and deleted when the
process stops. A process without a write for 15 seconds counts as dead. Processes that serve no
streams, such as `manage.py` and task workers, have no row, but can read the others' rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final

from django.db.models import Q
from django.utils import timezone

from ..delivery.hub import Hub
from ..delivery.transports.servers import name_of
from ..runtime.forks import at_fork
from ..runtime.telemetry import process_name
from . import reports
from .models import ServerProcess
from .reporter import Duty, Reporter, all_rows

#: A process without a write for this long counts as dead.
ALIVE_SECONDS: Final = 15.0

#: Called once a second by each process, in the thread that writes its row. A duty that returns
#: seconds is called again after these. Exceptions are logged, each once.
duties: Final[list[Duty]] = []
#: Writes the row of this process, from the first request on.
reporter: Reporter | None = None


def alive(*, streams: bool = False) -> list[ServerProcess]:
    """Return the processes that have written their row within the last 15 s.

    Without `streams`, the field of that name is deferred. One query; raises `django.db.Error`.
    """
    since = timezone.now() - timedelta(seconds=ALIVE_SECONDS)
    rows = all_rows().filter(seen_at__gte=since)
    return list(rows if streams else rows.defer("streams"))


def listeners(groups: Collection[str]) -> int:
    """Return the number of subscribers of `groups` in all processes, counted once per group.

    Those of this process are counted now; those of the others come from their last reports, which
    have the 500 groups with the most subscribers. One query; raises `django.db.Error`.
    """
    wanted = set(groups)
    count = sum(map(reports.subscribers, wanted))
    for process in alive():
        if process.name != process_name():
            reported = process.report.get("groups", {})
            count += sum(reported[group]["subscribers"] for group in wanted & reported.keys())
    return count


def watch(seconds: float = 10.0) -> None:
    """Ask all processes to report each second, with their streams, for `seconds`.

    This process starts immediately, the others within a second. One query; raises
    `django.db.Error`.
    """
    until = timezone.now() + timedelta(seconds=seconds)
    all_rows().filter(Q(watched_until=None) | Q(watched_until__lt=until)).update(
        watched_until=until
    )
    if reporter is not None:
        reporter.watched_until = until
        reporter.tick_now()


def begin(send: Any) -> None:
    """Start to report, on the running loop. `send` is the ASGI callable, which shows the server."""
    global reporter
    loop = asyncio.get_running_loop()
    if Hub.draining or (reporter is not None and not _has_ended(reporter.loop, loop)):
        return
    reporter = Reporter(process_name(), name_of(send), duties)


def _has_ended(loop: asyncio.AbstractEventLoop, running: asyncio.AbstractEventLoop) -> bool:
    return loop is not running and (loop.is_closed() or not loop.is_running())


def _forget() -> None:
    """Forget the reporter in a forked child, which has another row and does not run its loop."""
    global reporter
    reporter = None


at_fork(_forget)
