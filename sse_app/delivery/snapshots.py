"""`@snapshot`: functions that give a group's present state, and one read of it for all who come.

A stream that begins, and one that was reset, gets `sse.snapshot`. Its id is a position that was
taken before the state was read; the events after that position follow.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from django.db.models import QuerySet

from ..conf import settings
from ..protocol.cursors import START, Position
from ..protocol.events import encode_control, with_id
from ..protocol.groups import best_match, validate_pattern
from ..runtime.callables import contained
from ..runtime.forks import at_fork
from ..runtime.services import spawn
from ..runtime.telemetry import log_fields
from ..runtime.threads import Threads

SNAPSHOT: Final = "sse.snapshot"
MOST_SECONDS: Final = 60.0
#: How long a hub that closes waits for an async function that does not end when it is cancelled.
END_SECONDS: Final = 1.0
#: How many threads one function has, for all its groups.
READS_AT_ONCE: Final = 8
#: Of all groups' states together, beyond which those that were read first are read again.
KEPT_BYTES: Final = 32 * 1024 * 1024

Function = TypeVar("Function", bound=Callable[[str], Any])

logger = logging.getLogger("sse_app")


class SnapshotFailed(Exception):
    """Raised where a group's state can't be had now."""


@dataclass(frozen=True)
class Source:
    """What gives the state of the groups that match `pattern`, and how long it may be kept."""

    pattern: str
    function: Callable[[str], Any]
    seconds: float
    #: The function's own: where it hangs, other functions do not wait for it.
    threads: Threads = field(default_factory=lambda: Threads(READS_AT_ONCE), compare=False)

    async def read(self, group: str) -> bytes:
        """Call the function; one that is awaited gets `SNAPSHOT_SECONDS`.

        Raises `TypeError` or `ValueError` for what can't be sent, `ThreadsBusy` if no thread is
        free in `SNAPSHOT_SECONDS`, and what the function raises, see `contained`.
        """
        seconds = settings().SNAPSHOT_SECONDS
        if not inspect.iscoroutinefunction(self.function):
            block: bytes = await self.threads.call(group, seconds, self._call, group)
            return block
        async with asyncio.timeout(seconds):
            with contained():
                data = await self.function(group)
            # A megabyte takes longer to encode than all streams may wait.
            block = await self.threads.call(group, seconds, encode_state, group, data)
            return block

    def _call(self, group: str) -> bytes:
        return encode_state(group, self.function(group))


@dataclass(frozen=True)
class State:
    """A group's state as all streams get it, and a position before which all is in it."""

    group: str
    position: Position
    block: bytes

    def encode(self, id: str, *, labelled: bool) -> bytes:
        """Return it on the wire; `labelled` as for events."""
        label = b"group: %b\n" % self.group.encode("ascii") if labelled else b""
        return label + with_id(self.block, id)


def encode_state(group: str, data: object) -> bytes:
    """Return `data` on the wire; raises `TypeError` or `ValueError` for what can't be sent."""
    if isinstance(data, QuerySet):
        raise TypeError(f"It is a {type(data).__name__}, not JSON: return list() of it.")
    if inspect.isawaitable(data):
        if inspect.iscoroutine(data):
            data.close()  # Python need not say so too, from wherever it is collected.
        raise TypeError(f"It is a {type(data).__name__}, not JSON: await it.")
    block = encode_control(SNAPSHOT, {"group": group, "data": data})
    most = settings().SNAPSHOT_BYTES
    if len(block) > most:
        raise ValueError(
            f"It has {len(block)} bytes on the wire, more than SSE_APP['SNAPSHOT_BYTES'] = {most}. "
            "Give less, or a reference to be fetched."
        )
    return block


_sources: dict[str, Source] = {}


def snapshot(pattern: str, *, seconds: float = 1.0) -> Callable[[Function], Function]:
    """Register the decorated function for the state of groups that match `pattern`.

    It is called with the group's name, sync (in a thread, where it may use the database) or async,
    and returns a `str` or what can be JSON. Each new stream of the group, and each one that got
    `sse.reset` for it, is sent what it returned. For `seconds`, from 0 to 60, that is kept for
    whoever comes meanwhile; who comes while it is called waits for the same call.

    It can't see who listens, since many get the same; only streams that may listen to the group
    get it. Return nothing that is not for all of them. Read from the database that is written to:
    a replica could lack what the stream is told has been. It runs outside any transaction.

    A group's state comes from its own name, else from the pattern that matches with the longest
    beginning before its first `*`. A function that raises, takes longer than `SNAPSHOT_SECONDS` or
    returns more than `SNAPSHOT_BYTES` ends the stream by `sse.close` with `snapshot`: its client
    comes back. Raises `ValueError` for an invalid pattern or `seconds`, and for a pattern that
    another function has.
    """
    validate_pattern(pattern)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and 0 <= seconds <= MOST_SECONDS):
        raise ValueError(f"Invalid seconds {seconds!r}: a number from 0 to {MOST_SECONDS:g}.")

    def register(function: Function) -> Function:
        known = _sources.setdefault(pattern, Source(pattern, function, seconds))
        if known.function is not function:
            raise ValueError(
                f"The pattern {pattern!r} has a snapshot already: {known.function!r}; "
                f"{function!r} needs another pattern."
            )
        return function

    return register


def source_of(group: str) -> Source | None:
    """Return what gives the state of `group`, None if nothing does."""
    pattern = best_match(group, _sources)
    return None if pattern is None else _sources[pattern]


def _forget_threads() -> None:
    """In a forked child: the parent's threads do not run here."""
    for source in _sources.values():
        source.threads.clear()


at_fork(_forget_threads)


class Served(Protocol):
    """A group's topic, as far as snapshots are concerned."""

    @property
    def position(self) -> Position | None:
        """The position up to which the group was delivered here; None before the first."""


class SharedSnapshots:
    """The states of groups, each read once for all who ask meanwhile and for a moment after.

    `topics` say up to where the readers of each group were served here. Used on one loop. A
    cancelled reader never cancels a read: others may wait for it.
    """

    def __init__(self, topics: Mapping[str, Served]) -> None:
        self._topics = topics
        #: Reads under way, and until when callers wait for each, by the loop's clock.
        self._reading: dict[str, tuple[asyncio.Task[State], float]] = {}
        self._kept: dict[str, tuple[State, asyncio.TimerHandle]] = {}
        self._bytes = 0

    async def state(self, group: str) -> State:
        """Return the state of `group`, which has readers; raises `SnapshotFailed`."""
        if group in self._kept and self._is_current(self._kept[group][0]):
            return self._kept[group][0]
        while True:
            # The log has begun anew since: what came after that position can't be told any more.
            if group in self._kept:
                self._drop(group)
            state = await self._read_once(group)
            # One log that began while it was read is known from its beginning.
            if state.position == START or self._is_current(state):
                return state

    def forget(self, group: str, position: Position) -> None:
        """Keep no state of `group` read at `position` or before: nothing goes on from there."""
        if group in self._kept:
            kept = self._kept[group][0].position
            if kept.epoch == position.epoch and kept.offset <= position.offset:
                self._drop(group)

    def _keep(self, state: State, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, self._drop, state.group)
        self._kept[state.group] = state, timer
        self._bytes += len(state.block)
        while self._bytes > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, group: str) -> None:
        state, timer = self._kept.pop(group)
        timer.cancel()
        self._bytes -= len(state.block)

    async def close(self) -> None:
        """Stop what is being read."""
        for group in list(self._kept):
            self._drop(group)
        tasks = [task for task, _ in self._reading.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            # Not for ever: an async function may go on when it is cancelled.
            await asyncio.wait(tasks, timeout=END_SECONDS)

    def _is_current(self, state: State) -> bool:
        now = self._served(state.group)
        return now is None or state.position.epoch == now.epoch

    def _served(self, group: str) -> Position | None:
        topic = self._topics.get(group)
        return topic.position if topic else None

    async def _read_once(self, group: str) -> State:
        now, most = asyncio.get_running_loop().time(), settings().SNAPSHOT_SECONDS
        if group not in self._reading:
            # Its position first: what is written while the function reads comes after it.
            position = self._served(group) or START
            task = spawn(self._read, group, position)
            self._reading[group] = task, now + most
            task.add_done_callback(lambda done: self._done(group, done))
        task, until = self._reading[group]
        # The read continues after that time, since a thread can't be stopped. A later reader takes
        # its result, or fails at once while there is no result.
        if not (await asyncio.wait([task], timeout=max(0.0, until - now)))[0]:
            raise SnapshotFailed(f"The snapshot of group {group!r} takes more than {most:g} s.")
        if task.cancelled():
            raise SnapshotFailed(f"The snapshot of group {group!r} was cancelled.")
        return task.result()

    async def _read(self, group: str, position: Position) -> State:
        source = source_of(group)
        if source is None:
            raise SnapshotFailed(f"Nothing gives the state of group {group!r} any more.")
        try:
            state = State(group, position, await source.read(group))
        except Exception as error:
            logger.exception(
                "The snapshot of group %s failed.",
                group,
                extra=log_fields(group=group, error=error),
            )
            raise SnapshotFailed(f"The snapshot of group {group!r} failed: {error!r}") from error
        if source.seconds:
            self._keep(state, source.seconds)
        return state

    def _done(self, group: str, task: asyncio.Task[State]) -> None:
        del self._reading[group]
        if not task.cancelled():
            task.exception()  # Seen: everybody who waited may have gone.
