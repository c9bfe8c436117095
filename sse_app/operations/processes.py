"""The server processes of a site: each has a row of `ServerProcess` and says there how it is.

A row is written every five seconds, every second while somebody watches, and deleted when its
process stops. One that was killed counts as gone when it has not been seen for a while. Processes
that serve nothing, such as `manage.py` and task workers, have no row and can ask all the same.
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

#: Not seen for so long, a process is taken for dead.
ALIVE_SECONDS: Final = 15.0

#: What each process does once a second in the thread that keeps its row, or sooner where one
#: returns in how many seconds it is to be called again; what they raise is logged, once.
duties: Final[list[Duty]] = []
#: What keeps the row of this process, from its first request on.
reporter: Reporter | None = None


def alive(*, streams: bool = False) -> list[ServerProcess]:
    """Return the processes that were seen within the last 15 s.

    Without `streams`, their lists of streams are read only when they are asked for. One query;
    raises `django.db.Error`.
    """
    since = timezone.now() - timedelta(seconds=ALIVE_SECONDS)
    rows = all_rows().filter(seen_at__gte=since)
    return list(rows if streams else rows.defer("streams"))


def listeners(groups: Collection[str]) -> int:
    """Return how many listen to `groups` in all processes: a stream counts once per group.

    Of this process now, of the others by what they said within the last 15 s, and there of the
    500 groups with the most subscribers. One query; raises `django.db.Error`.
    """
    wanted = set(groups)
    count = sum(map(reports.subscribers, wanted))
    for process in alive():
        if process.name != process_name():
            reported = process.report.get("groups", {})
            count += sum(reported[group]["subscribers"] for group in wanted & reported.keys())
    return count


def watch(seconds: float = 10.0) -> None:
    """Have all processes report each second for so long, with their streams.

    This process begins at once, the others within a second. One query; raises `django.db.Error`.
    """
    until = timezone.now() + timedelta(seconds=seconds)
    all_rows().filter(Q(watched_until=None) | Q(watched_until__lt=until)).update(
        watched_until=until
    )
    if reporter is not None:
        reporter.watched_until = until
        reporter.tick_now()


def begin(send: Any) -> None:
    """Report from now on, on the running loop; `send` tells what server this is."""
    global reporter
    loop = asyncio.get_running_loop()
    if Hub.draining or (reporter is not None and not _has_ended(reporter.loop, loop)):
        return
    reporter = Reporter(process_name(), name_of(send), duties)


def _has_ended(loop: asyncio.AbstractEventLoop, running: asyncio.AbstractEventLoop) -> bool:
    return loop is not running and (loop.is_closed() or not loop.is_running())


def _forget() -> None:
    """In a forked child: it is another process, and the parent's loop does not run here."""
    global reporter
    reporter = None


at_fork(_forget)
