"""`subscribe()`: the events of some groups in server-side code, with the guarantees of a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Self, cast

from ..conf import namespace, settings
from ..eventlog.contract import Reason
from ..protocol.events import Event, validate_name
from ..protocol.groups import Group, full_name, validate_full
from ..runtime.callables import in_callers_thread
from .hub import Hub, get_hub
from .replay import StartRequest, find_start
from .sinks import Sink
from .subscriptions import Subscription, run_with_retries


class ContinuityLost(Exception):
    """Raised or returned by the iteration of `subscribe()` where a page would get `sse.reset`.

    Earlier events of `group` are lost to this reader, for `reason` ("trimmed", "epoch", "future",
    "limit", "unknown"). Read the state again, then continue the iteration: newer events follow.
    """

    def __init__(self, group: str, reason: Reason) -> None:
        super().__init__(f"The events of group {group!r} can't be continued: {reason}.")
        self.group = group
        self.reason = reason


def subscribe(
    *groups: Group,
    after: str | None = None,
    history: int | str | None = None,
    events: Iterable[str] = (),
    raise_lost: bool = True,
) -> Subscriber:
    """Return an async context manager whose value is an async iterator over each `Event`.

    `after`: the cursor to continue from, returned by `cursor()` or read from the iterator's
    `cursor`. `history`: without `after`, "earliest" or a number of past events to begin with.
    Without both, the iteration begins when the `async with` has been entered. `events`: the event
    names to show, all if empty.

    The order, completeness and uniqueness are those of a stream; an event of a transaction that
    has not committed is not there. If the body is slower than the events, at most `QUEUE_EVENTS`
    and `QUEUE_BYTES` wait in memory; the rest is read from the log later. The iteration raises
    `ContinuityLost` where continuity can't be proved, and continues after that. An `async for`
    ends there; with `raise_lost=False` it gets the `ContinuityLost` as an item and goes on.

    For one task at a time, on the event loop that entered the context manager. No policy is
    checked, because the caller is the project's own code. Raises `ValueError` for an invalid or
    missing group, event name or history; entering raises errors of the event log.
    """
    if not groups:
        raise ValueError("subscribe() needs at least one group, for example subscribe('orders').")
    names = [validate_name(name) for name in events]
    request = StartRequest(after, _history(history))
    valid = [validate_full(group) for group in groups]
    return Subscriber(valid, names, request, raise_lost=raise_lost)


def _history(history: int | str | None) -> float | None:
    if history is None or history == "earliest":
        return inf if history else None
    if type(history) is int and history >= 0:
        return history or None
    raise ValueError(f"Invalid history {history!r}: 'earliest', or how many past events as an int.")


class Subscriber:
    """The context manager and iterator that `subscribe()` returns; made by `subscribe()` only."""

    def __init__(
        self, groups: list[str], names: list[str], request: StartRequest, *, raise_lost: bool
    ) -> None:
        self._inbox = _Inbox()
        self._request = request
        self._groups, self._names = groups, names
        self._raise_lost = raise_lost
        self._hub: Hub | None = None
        self._running: asyncio.Task[str] | None = None
        self._cursor = ""

    @property
    def cursor(self) -> str:
        """The cursor after the last event that the iteration returned, for `after=`."""
        return self._cursor

    async def __aenter__(self) -> Self:
        if self._hub is not None:
            raise RuntimeError("subscribe() can be entered only once; call subscribe() again.")
        # The namespace may be that of the thread of the caller's database calls, as a schema is.
        name = "" if settings().NAMESPACE is None else await in_callers_thread(namespace)
        groups = [full_name(group, name) for group in self._groups]
        self._hub = get_hub()
        subscription = self._subscription = Subscription(self._inbox, groups, self._names)
        await self._hub.join(subscription)
        try:
            start = await find_start(self._hub, subscription.groups, self._request)
        except BaseException:
            await self._hub.leave(subscription)
            raise
        subscription.positions.update(start.positions)
        self._cursor = subscription.cursor
        for group, beginning in start.first.items():
            subscription.begin(group, beginning)
        self._running = asyncio.create_task(run_with_retries(subscription, self._hub))
        self._running.add_done_callback(self._inbox.end)
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._hub is not None
        assert self._running is not None
        self._subscription.close("left")
        self._inbox.end()
        self._running.cancel()
        try:
            await asyncio.wait([self._running])
        finally:  # The caller's task may be cancelled a second time.
            await self._hub.leave(self._subscription)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._running is None:
            raise RuntimeError("Enter subscribe() first: async with subscribe(...) as events.")
        item, cursor = await self._inbox.take(self._running)
        if cursor:
            self._cursor = cursor
        if self._raise_lost and isinstance(item, ContinuityLost):
            raise item
        return cast("Event", item)  # With `raise_lost=False` the caller looks at the type.


_Item = tuple[Event | ContinuityLost, str]


class _Inbox(Sink):
    """Holds items until the iteration takes them; when it is full, the subscription lags."""

    def __init__(self) -> None:
        self._waiting: deque[_Item] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._ended = False

    async def take(self, running: asyncio.Task[str]) -> _Item:
        """Return the next item; raise `StopAsyncIteration` at the end."""
        while not self._waiting:
            if self._ended:
                if running.done() and not running.cancelled() and running.result() == "error":
                    raise RuntimeError("The subscription failed; the logger sse_app says why.")
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        item = self._waiting.popleft()
        self._bytes -= _size(item)
        self._changed.set()
        return item

    def end(self, _: object = None) -> None:
        """Note that no more items will come."""
        self._ended = True
        self._changed.set()

    @property
    def ready(self) -> bool:
        limits = settings()
        return len(self._waiting) < limits.QUEUE_EVENTS and self._bytes < limits.QUEUE_BYTES

    async def drained(self) -> None:
        while not self.ready:
            self._changed.clear()
            await self._changed.wait()

    def show(self, event: Event, cursor: str, block: bytes) -> None:
        self._put((event, cursor))

    def reset(self, group: str, reason: Reason, cursor: str) -> None:
        self._put((ContinuityLost(group, reason), cursor))

    def passed(self, cursor: str) -> None:
        """See `Sink.passed()`. Ignored, as the next event has a newer cursor."""

    def _put(self, item: _Item) -> None:
        self._waiting.append(item)
        self._bytes += _size(item)
        self._changed.set()


def _size(item: _Item) -> int:
    return len(item[0].block) if isinstance(item[0], Event) else 0
