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

from . import attendance, broadcasts, presence, reports
from .forks import at_fork
from .hub import Hub
from .identity import process_name
from .models import ServerProcess
from .reporter import Duty, Reporter, all_rows
from .servers import name_of

#: Not seen for so long, a process is taken for dead.
ALIVE_SECONDS: Final = 15.0


def alive() -> list[ServerProcess]:
    """Return the processes that were seen within the last 15 s, without their lists of streams.

    Those are read when they are asked for. One query; raises `django.db.Error`.
    """
    since = timezone.now() - timedelta(seconds=ALIVE_SECONDS)
    return list(all_rows().filter(seen_at__gte=since).defer("streams"))


def listeners(groups: Collection[str]) -> int:
    """Return how many listen to `groups` in all processes: a stream counts once per group.

    Of this process now, of the others by what they said within the last 15 s, and there of the
    500 groups with the most subscribers. One query; raises `django.db.Error`.
    """
    wanted = set(groups)
    count = sum(map(reports.subscribers, wanted))
    for process in alive():
        if process.name != process_name():
            said = process.report.get("groups", {})
            count += sum(said[group]["subscribers"] for group in wanted & said.keys())
    return count


def watch(seconds: float = 10.0) -> None:
    """Have all processes report each second for so long, with their streams.

    This process begins at once, the others within a second. One query; raises `django.db.Error`.
    """
    until = timezone.now() + timedelta(seconds=seconds)
    all_rows().filter(Q(watched_until=None) | Q(watched_until__lt=until)).update(
        watched_until=until
    )
    if _reporter is not None:
        _reporter.watched_until = until
        _reporter.soon()


def soon() -> None:
    """Have the next tick of this process, and with it its duties, come at once. From any thread."""
    if _reporter is not None:
        _reporter.soon()


def report() -> dict[str, Any]:
    """Return what this process would say now, see `reports.report()`."""
    return reports.report("", layer="ok", loop_lag=0.0) if _reporter is None else _reporter.report()


def _keep_presence() -> None:
    # Those who keep no presence pay nothing for it.
    if presence.patterns():
        attendance.keep({process_name(), *(process.name for process in alive())})


#: What each process does once a second in the thread that keeps its row, or sooner where one
#: returns in how many seconds it wants to be called again; what they raise is logged, once.
DUTIES: Final[tuple[Duty, ...]] = (broadcasts.send_due, broadcasts.tally, _keep_presence)


# --- for the wiring: one reporter, from the first request to the shutdown ---


def begin(send: Any) -> None:
    """Report from now on, on the running loop; `send` tells what server this is."""
    global _reporter
    loop = asyncio.get_running_loop()
    if Hub.draining or (_reporter is not None and not _is_over(_reporter.loop, loop)):
        return
    _reporter = Reporter(process_name(), name_of(send), DUTIES)


def retire() -> None:
    """Report no more, and delete the row. From any thread; `is_retiring()` says until when."""
    if _reporter is not None:
        _reporter.is_ending = True
        _reporter.call(_reporter.retire)


def is_retiring() -> bool:
    """Whether the row is about to be deleted."""
    return _reporter is not None and _reporter.is_retiring


def _is_over(loop: asyncio.AbstractEventLoop, running: asyncio.AbstractEventLoop) -> bool:
    return loop is not running and (loop.is_closed() or not loop.is_running())


_reporter: Reporter | None = None


def _begin_anew() -> None:
    """In a forked child: it is another process, and the parent's loop does not run here."""
    global _reporter
    _reporter = None


at_fork(_begin_anew)
