"""Tracks the members of groups: counts streams, writes rows, publishes joins and leaves.

A process counts the streams of each user in memory. A second after a change a duty updates the
rows in one transaction, a *pass*. Every pass first writes the same row, so the passes of all
processes run one after another: the first row of a user in a group is exactly one join, and the
removal of the last is exactly one leave. Without changes there is no pass, but from time to time
one statement that finds what other processes left behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from math import inf
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from django.db.models import Count, Exists, QuerySet, Subquery
from django.utils import timezone

from ..conf import settings, written
from ..delivery.hub import Hub
from ..delivery.streams import Stream
from ..operations import processes
from ..operations.reporter import all_rows
from ..protocol.events import Event
from ..protocol.groups import RESERVED
from ..publishing.publish import publish_events
from ..runtime.duties import DUTIES
from ..runtime.forks import at_fork
from ..runtime.telemetry import process_name
from ..runtime.transactions import impatient
from ..signals import stream_closed, stream_lost_group, stream_opened
from . import roster
from .models import GroupMember, Presence
from .naming import described, parsed

#: Grace period for users whose server process stopped or died: if they reconnect to another process
#: within it, no leave event is published. `sse.close` of a server that stops asks its clients to
#: reconnect within ten seconds.
RECONNECT_SECONDS: Final = 10.0
#: The `group` of the row that every pass writes first; no real group has this name.
PASS_LOCK: Final = f"{RESERVED}presence"
#: Rows per statement: SQLite takes a limited number of parameters.
BATCH: Final = 400
#: How long a pass waits for the pass of another process, which may have stopped in it.
LOCK_SECONDS: Final = 1.0
#: The pause between a change and its pass, so that changes share a pass.
CHANGE_SECONDS: Final = 1.0
#: The longest pause between two looks for dead processes, and between two signs of life.
LOOK_SECONDS: Final = processes.ALIVE_SECONDS
SIGN_SECONDS: Final = 10.0
LEAST_SECONDS: Final = 0.1

#: A group, and a user's primary key as text.
Key = tuple[str, str]
#: The names of processes, or a query for them.
Alive = Collection[str] | QuerySet[Any, Any]
_Value = TypeVar("_Value")

_KEY: Final = ("group", "user_key")
_lock = threading.Lock()
#: Held during a pass: one pass of this process at a time.
_pass_lock = threading.Lock()
#: The groups in which a stream is counted. The stream may have lost groups since.
_counted: WeakKeyDictionary[Stream, set[str]] = WeakKeyDictionary()
_streams: dict[Key, int] = {}
_users: dict[Key, Any] = {}
#: The primary keys of this process's rows; None: they must be read again.
_rows: dict[Key, int] | None = None
#: When this process gave its last sign of life, by `time.monotonic()`.
_signed_at = -inf


# --- the streams of this process ---


def connect_signals() -> None:
    """Count the streams of this process from now on; called when the apps are ready."""
    stream_opened.connect_own(_opened)
    stream_lost_group.connect_own(_lost)
    stream_closed.connect_own(_closed)


def _opened(sender: Any, stream: Stream, **kwargs: Any) -> None:
    # Programs with a token have a name too, but are not members.
    if not roster.patterns() or not stream.user.is_authenticated:
        return
    groups = set(filter(roster.is_kept, stream.groups))
    if not groups:
        return
    with _lock:
        _counted[stream] = groups
        for group in groups:
            key = group, stream.user_key
            _streams[key] = _streams.get(key, 0) + 1
            _users[key] = stream.user
    DUTIES.soon(keep_presence, CHANGE_SECONDS)


def _lost(sender: Any, stream: Stream, group: str, **kwargs: Any) -> None:
    _uncount(stream, [group])


def _closed(sender: Any, stream: Stream, **kwargs: Any) -> None:
    _uncount(stream, list(_counted.get(stream, ())))


def _uncount(stream: Stream, groups: Collection[str]) -> None:
    with _lock:
        counted = _counted.get(stream, set())
        lost = counted.intersection(groups)
        for group in lost:
            counted.discard(group)
            key = group, stream.user_key
            _streams[key] -= 1
            if not _streams[key]:
                del _streams[key], _users[key]
    if lost:
        DUTIES.soon(keep_presence, CHANGE_SECONDS)


# --- passes ---


def keep_presence() -> float | None:
    """Update the rows of presence. A duty of every server process; see `keep()`."""
    # Without patterns there is no query.
    if not roster.patterns():
        return None
    if _users and not _sign():
        # Without a row this process counts as dead: its streams are written after its row.
        return CHANGE_SECONDS
    pause = keep(processes.seen().values("name"))
    signs_in = max(LEAST_SECONDS, _signed_at + SIGN_SECONDS - time.monotonic())
    return min(pause, signs_in) if _users else pause


def _sign() -> bool:
    """Give a sign of life after `SIGN_SECONDS`; return whether this process has its row."""
    global _signed_at
    if time.monotonic() < _signed_at + SIGN_SECONDS:
        return True
    if not processes.stay_seen():
        return False
    _signed_at = time.monotonic()
    return True


def keep(alive: Alive) -> float:
    """Update the rows to the streams of this process; publish joins and leaves.

    `alive` are the names of the live processes: the rows of other processes are deleted. Returns
    the seconds after which rows may be due again. Raises the errors of the database and of the log;
    then nothing has changed, and the next call tries again.
    """
    with _pass_lock:
        return _pass(alive)


def _pass(alive: Alive) -> float:
    global _rows
    if Hub.draining:
        # The streams end now. The rows stay for users who reconnect to another process.
        return LOOK_SECONDS
    with _lock:
        present = dict(_users)
    found = _look(alive)
    if _rows is None or found.own != len(_rows):
        # Another process took this one for dead and deleted rows.
        _rows = {(group, user): pk for group, user, pk in _own().values_list(*_KEY, "pk")}
    if present.keys() == _rows.keys() and not found.is_due:
        return found.pause()
    rows, _rows = _rows, None  # After an error in the pass, read them again.
    with impatient(written(GroupMember).db, LOCK_SECONDS):
        _lock_passes()
        now = timezone.now()
        dead = _others().exclude(process__in=alive).values_list(*_KEY, "pk")
        _remove_presences({(group, user): pk for group, user, pk in dead}, now, RECONNECT_SECONDS)
        departed = {key: pk for key, pk in rows.items() if key not in present}
        _remove_presences(departed, now, settings().PRESENCE_GRACE)
        arrived = {key: user for key, user in present.items() if key not in rows}
        added = _add_presences(arrived)
        joined = _add_members(arrived, now)
        left = _delete_members(now)
        events = [*_events(roster.LEAVE, left), *_events(roster.JOIN, joined)]
        publish_events(events, using=written(GroupMember).db)
    _rows = {key: pk for key, pk in rows.items() if key in present} | added
    return CHANGE_SECONDS


class _Found(NamedTuple):
    """What the rows say: how many are of this process, and what is due at which times."""

    own: int
    #: Whether there are rows of dead processes.
    dead: bool
    #: The oldest sign of life of another process with rows.
    signed_at: datetime | None
    #: When the next member leaves.
    leaves_at: datetime | None

    @property
    def is_due(self) -> bool:
        return self.dead or (self.leaves_at is not None and self.leaves_at <= timezone.now())

    def pause(self) -> float:
        """Return the seconds until a process may be dead, or a member leaves."""
        pauses, now = [LOOK_SECONDS], timezone.now()
        if self.signed_at is not None:
            died_at = self.signed_at + timedelta(seconds=processes.ALIVE_SECONDS)
            pauses.append((died_at - now).total_seconds())
        if self.leaves_at is not None:
            pauses.append((self.leaves_at - now).total_seconds())
        return max(LEAST_SECONDS, min(pauses))


def _look(alive: Alive) -> _Found:
    """Read what is due, in one statement: scalar subqueries beside the row of `PASS_LOCK`."""
    own = _own().order_by().values("process").annotate(count=Count("pk")).values("count")
    others = all_rows().filter(name__in=_others().values("process"))
    leaving = written(GroupMember).filter(leaves_at__isnull=False)
    row = (
        written(GroupMember)
        .filter(group=PASS_LOCK)
        .values_list(
            Subquery(own),
            Exists(_others().exclude(process__in=alive)),
            Subquery(others.order_by("seen_at").values("seen_at")[:1]),
            Subquery(leaving.order_by("leaves_at").values("leaves_at")[:1]),
        )
        .first()
    )
    # Without the row there was no pass yet: the first one makes it.
    return _Found(row[0] or 0, *row[1:]) if row else _Found(0, True, None, None)


def _lock_passes() -> None:
    """Wait for the end of other passes; until the transaction ends, no other pass begins."""
    lock = written(GroupMember).filter(group=PASS_LOCK)
    # Write first: SQLite can't always turn a reading transaction into a writing one.
    if not lock.update(since=timezone.now()):
        written(GroupMember).bulk_create(
            [GroupMember(group=PASS_LOCK, user_key="", name="", since=timezone.now())],
            ignore_conflicts=True,
        )
        lock.update(since=timezone.now())


def _remove_presences(rows: dict[Key, int], now: datetime, grace: float) -> None:
    """Delete presences; users without another one leave after `grace` seconds."""
    for pks in _batches(rows.values()):
        written(Presence).filter(pk__in=pks).delete()
    remaining = set(_found(written(Presence), rows))
    members = written(GroupMember)
    absent = [row.pk for key, row in _found(members, rows).items() if key not in remaining]
    for pks in _batches(absent):
        members.filter(pk__in=pks).update(leaves_at=now + timedelta(seconds=grace))


def _add_presences(arrived: Iterable[Key]) -> dict[Key, int]:
    """Add presences of this process; return their primary keys."""
    own = process_name()
    made = [Presence(group=group, user_key=user, process=own) for group, user in arrived]
    rows = written(Presence).bulk_create(made, batch_size=BATCH)
    return {(row.group, row.user_key): row.pk for row in rows}


def _add_members(arrived: dict[Key, Any], now: datetime) -> Sequence[GroupMember]:
    """Make users members; return the new members."""
    found = _found(written(GroupMember), arrived)
    back = [row.pk for row in found.values() if row.leaves_at is not None]
    for pks in _batches(back):
        written(GroupMember).filter(pk__in=pks).update(leaves_at=None)
    new = [
        GroupMember(group=group, user_key=key, name=name, data=data, since=now)
        for (group, key), user in arrived.items()
        if (group, key) not in found
        for name, data in [described(user, group)]
    ]
    return written(GroupMember).bulk_create(new, batch_size=BATCH)


def _delete_members(now: datetime) -> Sequence[GroupMember]:
    """Delete and return the members whose time to leave has come."""
    left = list(written(GroupMember).filter(leaves_at__lte=now))
    for pks in _batches(row.pk for row in left):
        written(GroupMember).filter(pk__in=pks).delete()
    return left


def _events(name: str, rows: Iterable[GroupMember]) -> Iterator[Event]:
    for row in rows:
        shown = {"user": row.user_key, "name": row.name}
        if row.data:
            shown["data"] = parsed(row.data)
        yield Event.of_app(row.group, name, shown)


def _found(rows: QuerySet[Any], keys: Iterable[Key]) -> dict[Key, Any]:
    """Return the rows of `keys`, by key."""
    found: dict[Key, Any] = {}
    for batch in _batches(keys):
        groups, users = {group for group, _ in batch}, {user for _, user in batch}
        wanted = set(batch)
        for row in rows.filter(group__in=groups, user_key__in=users):
            key = row.group, row.user_key
            if key in wanted:
                found[key] = row
    return found


def _batches(values: Iterable[_Value]) -> Iterator[list[_Value]]:
    waiting = iter(values)
    while batch := list(islice(waiting, BATCH)):
        yield batch


def _own() -> QuerySet[Presence]:
    return written(Presence).filter(process=process_name())


def _others() -> QuerySet[Presence]:
    return written(Presence).exclude(process=process_name())


def _reset_after_fork() -> None:
    """In a forked child: a new process has no streams."""
    global _rows, _lock, _pass_lock, _signed_at
    _lock, _pass_lock = threading.Lock(), threading.Lock()
    _streams.clear()
    _users.clear()
    _counted.clear()
    _rows = None
    _signed_at = -inf


at_fork(_reset_after_fork)
