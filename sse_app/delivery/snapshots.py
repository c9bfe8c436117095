"""`@snapshot`: functions that return a group's current state, and reads that readers share.

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
from ..protocol.groups import best_match, own_name, validate_pattern
from ..runtime import surroundings
from ..runtime.callables import contained
from ..runtime.services import spawn_in
from ..runtime.surroundings import surrounded
from ..runtime.telemetry import log_fields
from ..runtime.threads import Threads

SNAPSHOT: Final = "sse.snapshot"
MOST_SECONDS: Final = 60.0
#: Seconds that a hub that closes waits for a cancelled async function that does not end.
END_SECONDS: Final = 1.0
#: Limit for all kept states of a hub together; beyond it, the oldest states are dropped.
KEPT_BYTES: Final = 32 * 1024 * 1024

Function = TypeVar("Function", bound=Callable[[str], Any])

logger = logging.getLogger("sse_app")


class SnapshotFailed(Exception):
    """Raised when a group's state can't be read now."""


@dataclass(frozen=True)
class Source:
    """The function for the state of groups that match `pattern`, and for how long it is kept."""

    pattern: str
    function: Callable[[str], Any]
    seconds: float
    #: Threads of this function only, so that other functions do not wait when it hangs.
    threads: Threads = field(default_factory=Threads, compare=False)

    async def read(self, group: str) -> bytes:
        """Call the function; an async function gets `SNAPSHOT_SECONDS`. Return the encoded state.

        Raises `TypeError` or `ValueError` for a state that can't be sent, `ThreadsBusy` if no
        thread is free in `SNAPSHOT_SECONDS`, and the function's errors, see `contained`.
        """
        seconds = settings().SNAPSHOT_SECONDS
        if surroundings.are_set() or not inspect.iscoroutinefunction(self.function):
            context, function = surroundings.for_shared_work(), surrounded(self.function)

            def work() -> bytes:
                return context.run(_call, function, group)

            block: bytes = await self.threads.call(group, seconds, work)
            return block
        async with asyncio.timeout(seconds):
            with contained():
                data = await self.function(own_name(group))
            # In a thread, because encoding a megabyte would delay all streams of the loop.
            block = await self.threads.call(group, seconds, encode_state, group, data)
            return block


def _call(function: Callable[[str], Any], group: str) -> bytes:
    return encode_state(group, function(own_name(group)))


@dataclass(frozen=True)
class State:
    """A group's encoded state, and a position: the state contains all events up to it."""

    group: str
    position: Position
    block: bytes

    def encode(self, id: str, *, labelled: bool) -> bytes:
        """Return the event block with `id`; for `labelled`, see `Event.encode()`."""
        label = b"group: %b\n" % own_name(self.group).encode("ascii") if labelled else b""
        return label + with_id(self.block, id)


def encode_state(group: str, data: object) -> bytes:
    """Return `data` on the wire; raises `TypeError` or `ValueError` if it can't be sent."""
    if isinstance(data, QuerySet):
        raise TypeError(f"The state is a {type(data).__name__}, not JSON: return list() of it.")
    if inspect.isawaitable(data):
        if inspect.iscoroutine(data):
            data.close()  # Else Python also warns, when it collects the coroutine.
        raise TypeError(f"The state is a {type(data).__name__}, not JSON: await it.")
    block = encode_control(SNAPSHOT, {"group": own_name(group), "data": data})
    most = settings().SNAPSHOT_BYTES
    if len(block) > most:
        raise ValueError(
            f"The state has {len(block)} bytes on the wire, more than SSE_APP['SNAPSHOT_BYTES'] = "
            f"{most}. Return less, or a reference that pages fetch."
        )
    return block


_sources: dict[str, Source] = {}


def snapshot(pattern: str, *, seconds: float = 1.0) -> Callable[[Function], Function]:
    """Register the decorated function for the state of groups that match `pattern`.

    The function is called with the group's name and returns a `str` or data for JSON. It is sync
    (called in a thread, where it may use the database) or async, and runs outside any transaction.
    Its result is sent to each new stream of the group, and to each stream that got `sse.reset` for
    the group. The result is kept for `seconds`, from 0 to 60, for later streams. Streams that come
    during a call wait for that call.

    The function can't see the reader, because many readers get the same result: return only data
    for all who may listen to the group. Read from the primary database: a replica could lack
    changes whose events the stream will not get again.

    Of several patterns that match a group, its own name counts first, else the pattern with the
    longest beginning before its first `*`. If the function raises, takes longer than
    `SNAPSHOT_SECONDS` or returns more than `SNAPSHOT_BYTES`, the stream ends by `sse.close`, reason
    `snapshot`, and its client reconnects later. Raises `ValueError` for an invalid pattern or
    `seconds`, and for a pattern that has another function.
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
    """Return the source of the state of `group`, None if no pattern matches."""
    pattern = best_match(group, _sources)
    return None if pattern is None else _sources[pattern]


class Served(Protocol):
    """The part of a topic that snapshots need."""

    @property
    def position(self) -> Position | None:
        """The position up to which events were delivered here; None before the first position."""


class SharedSnapshots:
    """Shares each read of a state among all callers, and keeps states as long as their sources say.

    `topics` has the positions of the groups. Used on one loop. A cancelled caller does not cancel
    the read, because other callers may wait for it.
    """

    def __init__(self, topics: Mapping[str, Served]) -> None:
        self._topics = topics
        #: By group, the running read and the time, by the loop's clock, until which callers wait.
        self._reading: dict[str, tuple[asyncio.Task[State], float]] = {}
        self._kept: dict[str, tuple[State, asyncio.TimerHandle]] = {}
        self._bytes = 0

    async def state(self, group: str) -> State:
        """Return the state of `group`, which has readers; raises `SnapshotFailed`."""
        if group in self._kept and self._is_current(self._kept[group][0]):
            return self._kept[group][0]
        while True:
            # The log has a new epoch, so it can't say which events followed the kept state.
            if group in self._kept:
                self._drop(group)
            state = await self._read_once(group)
            # If the log got its first events during the read, all of them follow `START`.
            if state.position.is_start or self._is_current(state):
                return state

    def forget(self, group: str, position: Position) -> None:
        """Drop a kept state read at `position` or before: the log can't continue from it."""
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
        """Cancel all reads, and wait at most `END_SECONDS` for their ends."""
        for group in list(self._kept):
            self._drop(group)
        tasks = [task for task, _ in self._reading.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            # With a limit, because an async function may ignore its cancellation.
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
            # The position is taken before the read: events of changes during the read follow it.
            position = self._served(group) or START
            context = surroundings.for_shared_work()
            task = spawn_in(context, self._read, group, position)
            self._reading[group] = task, now + most
            task.add_done_callback(lambda done: self._done(group, done))
        task, until = self._reading[group]
        # The read continues after that time, as a thread can't be stopped. A later caller takes its
        # result, or fails immediately while there is no result.
        if not (await asyncio.wait([task], timeout=max(0.0, until - now)))[0]:
            raise SnapshotFailed(f"The snapshot of group {group!r} takes more than {most:g} s.")
        if task.cancelled():
            raise SnapshotFailed(f"The snapshot of group {group!r} was cancelled.")
        return task.result()

    async def _read(self, group: str, position: Position) -> State:
        source = source_of(group)
        if source is None:
            raise SnapshotFailed(f"No snapshot function matches group {group!r} any more.")
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
            task.exception()  # Retrieved, as all waiting callers may have been cancelled.
