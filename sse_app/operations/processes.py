"""The server processes of a site: each writes a report about itself to its row of `ServerProcess`.

A row is written every five seconds while somebody reads the reports, every second while a dashboard
is open, and rarely otherwise. It is deleted when the process stops. A process without a write for
15 seconds counts as dead, unless nobody has asked it for reports. Processes that serve no streams,
such as `manage.py` and task workers, have no row, but can read the others' rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Q, QuerySet
from django.utils import timezone

from ..delivery.hub import Hub
from ..delivery.transports.servers import name_of
from ..publishing.waking import wake_processes
from ..runtime.duties import DUTIES
from ..runtime.forks import at_fork
from ..runtime.telemetry import process_name
from . import reports
from .models import ServerProcess
from .reporter import QUIET_SECONDS, Reporter, all_rows, mark_of

#: A process without a write for this long counts as dead.
ALIVE_SECONDS: Final = 15.0
#: The same for a process that nobody has asked for reports.
QUIET_ALIVE_SECONDS: Final = QUIET_SECONDS + 30.0
#: A reader of the reports asks for them for this long, and again after half of it.
READ_SECONDS: Final = 120.0

#: Writes the row of this process, from the first request on.
reporter: Reporter | None = None


def alive(*, streams: bool = False) -> list[ServerProcess]:
    """Return the processes that live, and ask them to report every five seconds for a while.

    Without `streams`, the field of that name is deferred. One query, and once a minute another one;
    if nobody has read the reports before, an event too. Raises `django.db.Error`.
    """
    now = timezone.now()
    rows = all_rows().filter(seen_at__gte=now - timedelta(seconds=QUIET_ALIVE_SECONDS))
    found = [row for row in (rows if streams else rows.defer("streams")) if _is_alive(row, now)]
    until = now + timedelta(seconds=READ_SECONDS)
    asked = {row.name: row.read_until or datetime.min.replace(tzinfo=now.tzinfo) for row in found}
    again = [name for name, at in asked.items() if at < now + (until - now) / 2]
    if again:
        all_rows().filter(pk__in=again).update(read_until=until)
    if any(at < now for at in asked.values()):
        wake_processes(using=all_rows().db)
    return found


def _is_alive(row: ServerProcess, now: datetime) -> bool:
    """Return whether the process lives; its last write is at most `QUIET_ALIVE_SECONDS` old."""
    seconds = timedelta(seconds=ALIVE_SECONDS)
    if row.seen_at >= now - seconds or row.read_until is None or row.read_until < now:
        return True
    # While nobody reads the reports, writes are rare. A process that was asked between two of them
    # has 15 s to write.
    asked_at = row.read_until - timedelta(seconds=READ_SECONDS)
    return row.seen_at < asked_at - seconds and now < asked_at + seconds


def seen() -> QuerySet[ServerProcess]:
    """Return the processes with a write within the last 15 s. For those that call `stay_seen()`."""
    return all_rows().filter(seen_at__gte=timezone.now() - timedelta(seconds=ALIVE_SECONDS))


def stay_seen() -> bool:
    """Note that this process lives, in its row; return False without a row, which is then written.

    One query; raises `django.db.Error`.
    """
    has_row = bool(all_rows().filter(pk=process_name()).update(seen_at=timezone.now()))
    if not has_row:
        DUTIES.wake()
    return has_row


def listeners(groups: Collection[str]) -> int:
    """Return the number of subscribers of `groups` in all processes, counted once per group.

    Those of this process are counted now; those of the others come from their last reports, which
    have the 500 groups with the most subscribers. Queries as `alive()`; raises `django.db.Error`.
    """
    wanted = set(groups)
    count = sum(map(reports.subscribers, wanted))
    for process in alive():
        if process.name != process_name():
            reported = process.report.get("groups", {})
            count += sum(reported[group]["subscribers"] for group in wanted & reported.keys())
    return count


def watch(seconds: float = 10.0, *, wake: bool = False) -> str:
    """Ask all processes to report each second, with their streams, for `seconds`.

    This process starts immediately, others when they get the event that wakes processes with
    streams, or at their next write. If a dashboard is open already, that event is sent only with
    `wake`. Returns the mark that the next lists of streams have, see `mark_of()`. Two queries;
    raises `django.db.Error`.
    """
    now = timezone.now()
    until = now + timedelta(seconds=seconds)
    rows = all_rows()
    new = rows.filter(Q(watched_until=None) | Q(watched_until__lt=now)).update(watched_until=until)
    rows.filter(watched_until__lt=until).update(watched_until=until)
    if reporter is not None:
        reporter.watch(until)
    if new or wake:
        wake_processes(using=rows.db)
    return mark_of(until)


def begin(send: Any) -> None:
    """Start to report, on the running loop. `send` is the ASGI callable, which shows the server."""
    global reporter
    loop = asyncio.get_running_loop()
    if Hub.draining or (reporter is not None and not _has_ended(reporter.loop, loop)):
        return
    reporter = Reporter(process_name(), name_of(send))


def _has_ended(loop: asyncio.AbstractEventLoop, running: asyncio.AbstractEventLoop) -> bool:
    return loop is not running and (loop.is_closed() or not loop.is_running())


def _forget() -> None:
    """Forget the reporter in a forked child, which has another row and does not run its loop."""
    global reporter
    reporter = None


at_fork(_forget)
