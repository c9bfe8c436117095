"""Tracks the members of groups: counts streams, writes rows, publishes joins and leaves.

A process counts the streams of each user in memory. Once a second its reporter's thread updates the
rows in one transaction, a *pass*. Every pass first writes the same row, so the passes of all
processes run one after another: the first row of a user in a group is exactly one join, and the
removal of the last is exactly one leave. Without changes there is no pass.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from django.db.models import QuerySet
from django.utils import timezone

from ..conf import settings, written
from ..delivery.hub import Hub
from ..delivery.streams import Stream
from ..operations import processes
from ..protocol.events import Event
from ..protocol.groups import RESERVED
from ..publishing.publish import publish_events
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

#: A group, and a user's primary key as text.
Key = tuple[str, str]
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


def _lost(sender: Any, stream: Stream, group: str, **kwargs: Any) -> None:
    _uncount(stream, [group])


def _closed(sender: Any, stream: Stream, **kwargs: Any) -> None:
    _uncount(stream, list(_counted.get(stream, ())))


def _uncount(stream: Stream, groups: Collection[str]) -> None:
    with _lock:
        counted = _counted.get(stream, set())
        for group in counted.intersection(groups):
            counted.discard(group)
            key = group, stream.user_key
            _streams[key] -= 1
            if not _streams[key]:
                del _streams[key], _users[key]


# --- passes ---


def keep_presence() -> None:
    """Update the rows of presence. A duty of every server process; see `keep()`."""
    # Without patterns there is no query.
    if roster.patterns():
        keep({process_name(), *(process.name for process in processes.alive())})


def keep(alive: Collection[str]) -> None:
    """Update the rows to the streams of this process; publish joins and leaves.

    `alive` are the names of the live processes: the rows of other processes are deleted. Raises the
    errors of the database and of the log; then nothing has changed, and the next call tries again.
    """
    with _pass_lock:
        _pass(alive)


def _pass(alive: Collection[str]) -> None:
    global _rows
    if Hub.draining:
        # The streams end now. The rows stay for users who reconnect to another process.
        return
    with _lock:
        present = dict(_users)
    if _rows is None or _own().count() != len(_rows):
        # Another process took this one for dead and deleted rows.
        _rows = {(group, user): pk for group, user, pk in _own().values_list(*_KEY, "pk")}
    if present.keys() == _rows.keys() and not _is_due(alive):
        return
    rows, _rows = _rows, None  # After an error in the pass, read them again.
    with impatient(written(GroupMember).db, LOCK_SECONDS):
        _lock_passes()
        now = timezone.now()
        dead = written(Presence).exclude(process__in=alive).values_list(*_KEY, "pk")
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


def _is_due(alive: Collection[str]) -> bool:
    """Return whether there are rows of dead processes or members whose time to leave has come."""
    dead = written(Presence).exclude(process__in=alive)
    return dead.exists() or written(GroupMember).filter(leaves_at__lte=timezone.now()).exists()


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


def _reset_after_fork() -> None:
    """In a forked child: a new process has no streams."""
    global _rows, _lock, _pass_lock
    _lock, _pass_lock = threading.Lock(), threading.Lock()
    _streams.clear()
    _users.clear()
    _counted.clear()
    _rows = None


at_fork(_reset_after_fork)
