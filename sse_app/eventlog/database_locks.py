"""What the database log does about a group whose head another session has locked.

A publisher on PostgreSQL that stops within its transaction, as a frozen process does, keeps the
heads locked that it writes to. Others wait a bounded time, and only for these groups: an append
then fails, and a numbering pass leaves the group's events for the next sweep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from typing import Final

from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.models import Min

from ..runtime.rare_logs import RareLog
from ..runtime.telemetry import log_fields
from .database_rows import portions

#: How long an append waits for a locked head.
APPEND_SECONDS: Final = 5.0
#: How long the numbering of a transaction's events waits after the commit.
NUMBER_SECONDS: Final = 1.0
#: How long either waits if a head of these groups was locked a moment ago.
KNOWN_SECONDS: Final = 0.2
REMEMBERED_SECONDS: Final = 10.0

_delayed_log = RareLog(logging.getLogger("sse_app"))


class LockedGroups:
    """The groups whose heads were found locked. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, float] = {}
        self._delayed: dict[str, float] = {}
        self._apart: dict[str, float] = {}

    def seconds(self, groups: Collection[str], otherwise: float) -> float:
        """Return how long to wait for the heads of `groups`: `otherwise`, or less."""
        since = time.monotonic() - REMEMBERED_SECONDS
        with self._lock:
            known = any(self._found.get(group, since) > since for group in groups)
        return KNOWN_SECONDS if known else otherwise

    def found(self, groups: Collection[str]) -> None:
        """Remember that the heads of `groups` are locked."""
        with self._lock:
            self._found |= dict.fromkeys(groups, time.monotonic())

    def set_apart(self, groups: Collection[str]) -> None:
        """Have each append to `groups` wait for itself, and not together with other appends."""
        with self._lock:
            self._apart |= dict.fromkeys(groups, time.monotonic())

    def apart(self, groups: Collection[str]) -> bool:
        """Return whether one of `groups` was set apart a moment ago, or found locked."""
        if not (self._apart or self._found):
            return False
        since = time.monotonic() - REMEMBERED_SECONDS
        with self._lock:
            known = (self._apart, self._found)
            return any(times.get(group, since) > since for times in known for group in groups)

    def delays(self, among: Collection[str] | None, delayed: Mapping[str, float]) -> None:
        """Remember the `delayed` ones `among` the groups (None: all), and since which Unix time.

        Logs them once a minute.
        """
        self.found(delayed)
        with self._lock:
            others = self._delayed.items() if among is not None else ()
            kept = {group: since for group, since in others if group not in (among or ())}
            self._delayed = kept | dict(delayed)
        if delayed:
            seconds = time.time() - min(delayed.values())
            _delayed_log(
                "Committed events of %s wait for %.0f s: another session of the database has "
                "locked the heads of these groups. A transaction that publishes must be short; "
                "pg_stat_activity shows the sessions.",
                ", ".join(sorted(delayed)),
                seconds,
                extra=log_fields(groups=delayed, seconds=seconds),
            )

    def delay(self) -> float:
        """Return for how many seconds committed events have waited for locked heads; 0: none."""
        since = min(self._delayed.values(), default=None)
        return 0.0 if since is None else max(0.0, time.time() - since)


def staged_since(alias: str, groups: Collection[str] | None) -> dict[str, float]:
    """See `EventLog.delayed()`."""
    from .models import StoredEvent

    staged = StoredEvent.objects.using(alias).filter(offset=None)
    parts = [staged]
    if groups is not None:
        parts = [staged.filter(group__in=some) for some in portions(list(groups))]
    firsts = (part.values_list("group").annotate(Min("created_at")) for part in parts)
    return {group: at.timestamp() for first in firsts for group, at in first}


def was_refused(error: DatabaseError) -> bool:
    """Return whether the database refused the values of a statement: nothing was stored.

    The same statement with other events may be stored. Not for an error that says that the
    database is locked, or of a connection that broke, when a commit may have been done.
    """
    state = getattr(error.__cause__, "sqlstate", None)
    if state is None:
        return not isinstance(error, OperationalError | InterfaceError)
    return not state.startswith(("08", "57P"))


def is_lock_timeout(error: DatabaseError) -> bool:
    """Return whether PostgreSQL stopped waiting for a lock."""
    return getattr(error.__cause__, "sqlstate", None) == "55P03"


def refusal(groups: Collection[str], seconds: float) -> OperationalError:
    """Return the error of an append to `groups`, whose heads stayed locked for `seconds`."""
    return OperationalError(
        f"Nothing was published: for {seconds:g} s another session of the database has locked the "
        f"head of {', '.join(sorted(groups))}. A transaction that publishes must be short; "
        "pg_stat_activity shows the sessions."
    )
