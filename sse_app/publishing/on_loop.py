"""`apublish()` outside transactions: without the thread of Django's async database calls.

A log in memory or in Redis needs no thread, and a database one thread for all calls of a loop that
wait. The calls of one loop are appended in their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from weakref import WeakKeyDictionary

from django.db import DEFAULT_DB_ALIAS

from .. import signals
from ..eventlog import EventLog, PartlyStored, event_log
from ..protocol.events import Event
from ..runtime.threads import PUBLISHES, is_serving
from ..runtime.transactions import in_any_transaction
from . import group_commit, outbox

_Outcome = list[Event] | BaseException


def queue_of_loop(*, durable: bool, using: str | None, immediate: bool) -> LoopQueue | None:
    """Return the queue for a publish on the running loop; None if it needs the caller's thread.

    That thread may have begun a transaction, which only the thread can see. So the answer is None
    while any thread of the process is in a transaction on one of the two databases. Receivers of
    `event_published` may use the database, so they are called in that thread too.
    """
    if signals.event_published.receivers:
        return None
    log = event_log()
    aliases = {using or DEFAULT_DB_ALIAS, log.alias or DEFAULT_DB_ALIAS}
    if not immediate and in_any_transaction(aliases):
        return None
    if durable and log.alias is not None and not (is_serving() and log.most_together):
        return None  # Such as a test, whose thread may be the only one that sees its database.
    if durable and log.alias is None and log.shared and not outbox.is_loop_of_hub():
        return None  # The log would open connections for a loop that may soon end, and not close.
    loop = asyncio.get_running_loop()
    queue = _queues.get(loop)
    if queue is None:
        queue = _queues[loop] = LoopQueue()
    return queue


class LoopQueue:
    """Publishes the events of one loop, one call after another or several together."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting: list[tuple[Sequence[Event], asyncio.Future[list[Event]]]] = []
        self._busy = False

    async def publish(self, events: list[Event]) -> list[Event]:
        """Publish `events`, either all durable or none; return them with their positions."""
        log = event_log()
        if not events or not events[0].durable:
            outbox.send(events)
            return events
        if log.alias is not None:
            return await self._by_thread(events)
        if not log.shared:
            return await self._append(log, events)
        async with self._lock:
            return await self._append(log, events)

    async def _append(self, log: EventLog, events: Sequence[Event]) -> list[Event]:
        try:
            with group_commit.timed(events):
                numbered = await log.aappend(events)
        except PartlyStored as error:
            outbox.send(error.stored)
            raise
        outbox.send(numbered)
        return numbered[-len(events) :]

    async def _by_thread(self, events: Sequence[Event]) -> list[Event]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((events, future))
        if not self._busy:
            self._start(asyncio.get_running_loop())
        published: list[Event] = await future
        return published

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Publish in one thread what waits now; calls that come meanwhile share the next turn."""
        batch, self._waiting = self._waiting, []
        self._busy = True

        def ended(done: Future[list[_Outcome]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, loop, [one for _, one in batch], done)

        try:
            batches = [events for events, _ in batch]
            work = PUBLISHES.submit(None, None, group_commit.publish_each, event_log(), batches)
        except Exception as error:  # The system has no more threads.
            work = Future()
            work.set_exception(error)
        work.add_done_callback(ended)

    def _ended(
        self,
        loop: asyncio.AbstractEventLoop,
        futures: Sequence[asyncio.Future[list[Event]]],
        done: Future[list[_Outcome]],
    ) -> None:
        error = done.exception()
        outcomes: Sequence[_Outcome] = done.result() if error is None else [error] * len(futures)
        for future, outcome in zip(futures, outcomes, strict=True):
            if future.done():
                continue  # Its caller was cancelled.
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._busy = False
        if self._waiting:
            self._start(loop)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopQueue] = WeakKeyDictionary()
