"""`Batches`: one read for all callers of one iteration of the loop, or of the time of a read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from .services import spawn

#: The most items of one read: below the number of variables that a statement may have.
PORTION: Final = 250
#: The next read waits for the one that is running, but at most for so many seconds.
PATIENCE_SECONDS: Final = 0.5

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Read = Callable[[Sequence[_Item]], Awaitable[Sequence[_Result | Exception]]]


class Batches(Generic[_Item, _Result]):
    """Collects the items of many callers for `read()`, on each event loop separately.

    `read(items)` returns one result for each item, or an exception for that item's caller. If it
    raises, all its callers get the error. It runs in an empty context.
    """

    def __init__(self, read: _Read[_Item, _Result]) -> None:
        self._read = read
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue[_Item, _Result]] = (
            WeakKeyDictionary()
        )

    async def result(self, item: _Item) -> _Result:
        """Return the result for `item`. A cancelled caller does not cancel the read."""
        loop = asyncio.get_running_loop()
        if (queue := self._queues.get(loop)) is None:
            queue = self._queues[loop] = _Queue(self._read)
        return await queue.add(loop, item)


class _Queue(Generic[_Item, _Result]):
    """The items of one loop that wait for a read. Keeps no reference to the loop."""

    def __init__(self, read: _Read[_Item, _Result]) -> None:
        self._read = read
        self._waiting: deque[tuple[_Item, asyncio.Future[_Result]]] = deque()
        #: The timer of the read that is running; the next one begins when that fires.
        self._next: asyncio.Handle | None = None

    def add(self, loop: asyncio.AbstractEventLoop, item: _Item) -> asyncio.Future[_Result]:
        future: asyncio.Future[_Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._next is None:
            self._next = loop.call_soon(self._begin)
        return future

    def _begin(self) -> None:
        self._next = None
        count = min(len(self._waiting), PORTION)
        portion = [self._waiting.popleft() for _ in range(count)]
        # A caller that was cancelled needs no result.
        portion = [(item, future) for item, future in portion if not future.done()]
        if portion:
            loop = asyncio.get_running_loop()
            timer = self._next = loop.call_later(PATIENCE_SECONDS, self._begin)
            spawn(self._answer, portion, timer)
        elif self._waiting:
            self._begin()

    async def _answer(
        self,
        portion: Sequence[tuple[_Item, asyncio.Future[_Result]]],
        timer: asyncio.TimerHandle,
    ) -> None:
        try:
            results = await self._read([item for item, _ in portion])
        except Exception as error:
            results = [error] * len(portion)
        finally:
            if self._next is timer:
                timer.cancel()
                self._begin()
        for (_, future), result in zip(portion, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
