"""One process whose time, channel layer and transactions a test turns by hand.

Nothing here waits for luck: the loop's clock stands still while a thread or a socket has work to
finish, and jumps to the next timer when nobody has any. So a turn of half a second costs no time
and afterwards everything that could happen has happened.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

from channels.layers import InMemoryChannelLayer, channel_layers
from django.conf import settings as django_settings
from django.db import connections, transaction

from sse_app.conf import settings as app_settings
from sse_app.delivery.hub import running_hubs
from sse_app.eventlog import EventLog, event_log
from sse_app.protocol.events import BATCH_TYPE, Event

from .patience import PATIENCE

TURN_SECONDS = 0.5
MOST_STEPS = 20_000

_Result = TypeVar("_Result")


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    loop: TurnedLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        self.loop.steps += 1
        assert self.loop.steps < MOST_STEPS, "the loop spins"
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self.loop.busy:
            ready = super().select(PATIENCE)
            assert ready, "a thread or a socket never answered"
            return ready
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "the loop waits for nothing"
            self.loop.now += timeout
        return ready


class TurnedLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, which passes only while nothing else can happen."""

    def __init__(self) -> None:
        self.now = 0.0
        #: Steps since the test last said what happens.
        self.steps = 0
        #: How many calls are under way in threads and on sockets.
        self.busy = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self.busy += 1
        future.add_done_callback(self._answered)
        return future

    def _answered(self, _: object) -> None:
        self.busy -= 1

    def run_until_complete(self, future: Any) -> Any:
        self.steps = 0
        return super().run_until_complete(future)

    def turn(self) -> None:
        """Let happen what can."""
        self.run_until_complete(asyncio.sleep(TURN_SECONDS))

    def watch_calls(self, log: EventLog) -> None:
        """Stand still while an async call of `log` is under way, which may wait for a socket."""
        for name, method in inspect.getmembers(log, inspect.iscoroutinefunction):
            setattr(log, name, self._counted(method))

    def _counted(
        self, method: Callable[..., Coroutine[Any, Any, _Result]]
    ) -> Callable[..., Coroutine[Any, Any, _Result]]:
        @functools.wraps(method)
        async def counted(*args: Any, **kwargs: Any) -> _Result:
            self.busy += 1
            try:
                return await method(*args, **kwargs)
            finally:
                self.busy -= 1

        return counted


class HeldLayer(InMemoryChannelLayer):  # type: ignore[misc]  # channels has no types
    """Delivers nothing by itself: what is sent is held until the test says what becomes of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(capacity=10_000)
        self.held: list[tuple[str, dict[str, Any]]] = []
        self._loop = loop

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        # While there is no hub another thread sends, in its own time, what nobody is there to get.
        if asyncio.get_running_loop() is self._loop:
            self.held.append((group, message))

    async def deliver(self, group: str, message: dict[str, Any]) -> None:
        """Send for good."""
        await super().group_send(group, message)


def events_of(message: dict[str, Any]) -> list[Event]:
    """Return what one message on the layer holds."""
    parts = message["events"] if message["type"] == BATCH_TYPE else [message]
    return [part if isinstance(part, Event) else Event.from_message(part) for part in parts]


class Clock:
    """The time of day that the app sees; it passes only when the test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        """In place of `time.time()`."""
        return self.now

    monotonic = time

    def moment(self) -> datetime:
        """In place of `django.utils.timezone.now()`."""
        return datetime.fromtimestamp(self.now, UTC)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Give it to every module of the app in place of the module `time`."""
        with ExitStack() as stack:
            for module in app_modules():
                if getattr(module, "time", None) is time:
                    stack.enter_context(mock.patch.object(module, "time", self))
            stack.enter_context(mock.patch("django.utils.timezone.now", self.moment))
            yield


def app_modules() -> list[ModuleType]:
    """Return the modules of the app that are imported."""
    return [module for name, module in sys.modules.items() if name.startswith("sse_app.")]


class Writer:
    """A thread with database connections of its own, on which one transaction at a time is open."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._thread = ThreadPoolExecutor(1)
        self._atomic: Any = None

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Do `work` on the thread and wait for it."""
        return self._thread.submit(work).result(PATIENCE)

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open."""
        return self._atomic is not None

    def begin(self) -> None:
        """Open a transaction."""
        self._atomic = transaction.atomic(using=self.alias)
        self.run(self._atomic.__enter__)

    def commit(self) -> None:
        """Commit it; what it registered for then runs."""
        self._end(lambda: None)

    def roll_back(self) -> None:
        """Undo it, if one is open."""
        self._end(lambda: transaction.set_rollback(True, using=self.alias))

    def in_savepoint(self, work: Callable[[], Any], *, keep: bool) -> None:
        """Do `work` in a savepoint, which is then kept or rolled back."""

        def nested() -> None:
            with transaction.atomic(using=self.alias):
                work()
                if not keep:
                    transaction.set_rollback(True, using=self.alias)

        self.run(nested)

    def close(self) -> None:
        """End the thread and its connections."""
        self.run(connections.close_all)
        self._thread.shutdown()

    def _end(self, before: Callable[[], None]) -> None:
        atomic, self._atomic = self._atomic, None
        if atomic is None:
            return

        def end() -> None:
            before()
            atomic.__exit__(None, None, None)

        self.run(end)


def configure(sse_app: Mapping[str, Any]) -> None:
    """Put `SSE_APP` in force without a new event log, which Django's signal would bring."""
    django_settings.SSE_APP = dict(sse_app)
    app_settings.cache_clear()


class Process:
    """A loop, a channel layer and the event log of one server process."""

    def __init__(self) -> None:
        self.loop = TurnedLoop()
        self.layer = HeldLayer(self.loop)
        channel_layers.set("default", self.layer)
        self.open_log()

    def open_log(self) -> None:
        """Make the event log anew, as a process does that starts."""
        event_log.cache_clear()
        self.log = event_log()
        self.loop.watch_calls(self.log)

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do `work` on the loop, and what else can happen then."""
        # On a clock that jumps, what waits for ever does not stop the test but spins.
        result = self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE))
        self.loop.turn()
        return result

    def deliver(self, index: int, *, keep: bool = False) -> None:
        """Deliver one held message; keep it to deliver it again."""
        group, message = self.layer.held[index] if keep else self.layer.held.pop(index)
        self.run(self.layer.deliver(group, message))

    def close(self) -> None:
        """End whatever still runs."""
        self.loop.run_until_complete(self._end())
        self.loop.close()
        channel_layers.backends.clear()
        event_log.cache_clear()

    async def _end(self) -> None:
        for hub in running_hubs():
            await hub.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.log.aclose()
