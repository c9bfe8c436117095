"""Sending on the channel layer, from any thread, with or without a running loop.

If the process has a hub, sends run on the hub's loop, since an in-memory layer only wakes receivers
of its own loop. Otherwise they run on one background loop, so that sync code has one connection to
Redis and not one per call. The channel layer may lose events, which are then read from the event
log. So nothing here raises.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from multiprocessing.util import Finalize
from typing import Any, Final, Protocol

from .. import signals
from ..conf import channel_layer, is_in_memory, settings, site_tag
from ..eventlog import event_log
from ..protocol.events import BATCH_TYPE, Event
from ..protocol.groups import CONTROL_GROUP, layer_group, shared_group
from ..runtime import layer_calls
from ..runtime.callables import contained
from ..runtime.forks import at_fork
from ..runtime.native import make_condition, start_loop
from ..runtime.rare_logs import RareLog
from ..runtime.services import every, spawn
from ..runtime.telemetry import COUNTS, log_fields

#: While more events than this wait, the oldest are dropped.
WAITING_EVENTS: Final = 10_000
#: While more events than this wait, sync publishers wait too.
ROOM_EVENTS: Final = 1_000
BATCH_EVENTS: Final = 100
#: The pause after a message: events published during the pause then share the next message.
PAUSE_SECONDS: Final = 0.002
SEND_SECONDS: Final = 2.0
#: How long one call of the layer may take. channels_redis has no limit of its own with redis-py
#: before 8, so a silent connection would stop all sends.
CALL_SECONDS: Final = 10.0
#: A watched log that has not changed is swept after this time.
WATCHED_SECONDS: Final = 90.0
#: If no descriptor is left for an event loop, Python writes several lines for each attempt.
LOOP_RETRY_SECONDS: Final = 5.0

logger = logging.getLogger("sse_app")
_refused_log = RareLog(logger)
_full_log = RareLog(logger)


def send(events: Sequence[Event]) -> None:
    """Queue `events` for the channel layer and call the receivers of `event_published`.

    Either all events are durable or none. With a running loop the call returns immediately. In sync
    code it waits up to two seconds: at the first send for the connection, and later while more than
    a thousand events are queued. When the process ends, also a child of `multiprocessing`, it sends
    the queued events. A process that is killed, or ends by `os._exit()`, loses them: streams then
    find the durable events by the check of the heads.
    """
    if events:
        announce(queue(events), events)


def queue(events: Sequence[Event]) -> Outbox | None:
    """Queue `events` for the channel layer; return their outbox, None if they can't be sent."""
    # Not within the sum below: another thread could run during the call.
    count = sum(event.group != CONTROL_GROUP for event in events)
    if events[0].durable:
        COUNTS.durable += count
    else:
        COUNTS.passing += count
    try:
        outbox = _outbox()
    except (OSError, RuntimeError) as error:  # No descriptor or no thread is left.
        _refused_log(
            "%d event(s) can't be sent on the channel layer (%r); streams read the durable ones "
            "from the log.",
            count,
            error,
            extra=log_fields(events=count, error=error),
        )
        return None
    outbox.put(events)
    return outbox


def announce(outbox: Outbox | None, events: Sequence[Event]) -> None:
    """Call the receivers of `event_published` for queued events; sync code waits for room."""
    if outbox is None:
        return
    if _running_loop() is None:
        outbox.wait_for_room()
    if signals.event_published.receivers:
        for event in events:
            if event.group != CONTROL_GROUP:
                signals.event_published.send_robust(sender=Event, event=event)


def flush(seconds: float = SEND_SECONDS) -> bool:
    """Wait until the channel layer has taken all queued events; return whether it has.

    For sync code only: a loop that waits here can't send.
    """
    with _lock:
        outboxes = [*_hub_outboxes, *([_background] if _background else [])]
    return all(outbox.flush(seconds) for outbox in outboxes)


class Outbox:
    """A queue of events for the channel layer, sent in order by one task of `loop`.

    `connected`: if False, sync publishers also wait until the first send has ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connected: bool) -> None:
        self.loop = loop
        self._connected = connected
        self._waiting: deque[Event] = deque(maxlen=WAITING_EVENTS)
        self._sending = self._timed = False
        self._hangs = False
        self._may_send_at = 0.0
        self._progress = make_condition()

    def put(self, events: Sequence[Event]) -> None:
        """Queue `events`, from any thread; when ten thousand wait, the oldest are dropped."""
        with self._progress:
            if not self._timed:
                # One timestamp per batch is enough to measure the latency.
                self._timed = True
                events[0].send_at(time.time())
            waiting = len(self._waiting)
            self._waiting.extend(events)
            starts, self._sending = not self._sending, True
        if waiting < WAITING_EVENTS < waiting + len(events):
            _full_log(
                "More than %d events wait for the channel layer.",
                WAITING_EVENTS,
                extra=log_fields(events=waiting),
            )
        if starts:
            self._begin()

    def _begin(self) -> None:
        try:
            if _running_loop() is self.loop:
                self._start()
            else:
                self.loop.call_soon_threadsafe(self._start)
        except RuntimeError:
            # The loop was closed meanwhile; the next events get another outbox.
            self._stopped()

    def wait_for_room(self) -> None:
        """Wait while too many events are queued; after a timeout, not again before a send."""
        with self._progress:
            if not self._has_room() and not self._hangs:
                self._hangs = not self._progress.wait_for(self._has_room, SEND_SECONDS)

    def flush(self, seconds: float) -> bool:
        """Wait until the queue is empty, not in the loop's thread; return whether it is empty."""
        with self._progress:
            return self._progress.wait_for(lambda: not self._sending, seconds)

    def _has_room(self) -> bool:
        return self._connected and len(self._waiting) <= ROOM_EVENTS

    def _start(self) -> None:
        if self._send_at_once():
            return
        self._task = spawn(self._send_waiting)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # When a loop ends, its tasks are cancelled, even before their first step.
        if task.cancelled() or task.exception() is not None:
            self._stopped()

    def _send_at_once(self) -> bool:
        """Send all that waits in this iteration; return False if that needs a task."""
        now = self.loop.time()
        with self._progress:
            events = list(self._waiting)
            if now < self._may_send_at or len(events) > BATCH_EVENTS or not _put(events):
                return False
            for _ in events:
                self._waiting.popleft()
            self._may_send_at = now + PAUSE_SECONDS
            self._connected, self._timed, self._hangs = True, False, False
            # A signal handler may have published between these lines.
            self._sending = bool(self._waiting)
            self._progress.notify_all()
            return not self._sending

    async def _send_waiting(self) -> None:
        while True:
            pause = self._may_send_at - self.loop.time()
            if pause > 0 and 0 < len(self._waiting) < BATCH_EVENTS:
                await asyncio.sleep(pause)
            if not (batch := self._take()):
                return
            taken = [_put(batch)]
            if not any(taken):
                taken = [await _held(groups, call) for groups, call in _calls(batch)]
            self._may_send_at = self.loop.time() + PAUSE_SECONDS
            with self._progress:
                self._connected = True
                self._hangs = self._hangs and not any(taken)
                self._progress.notify_all()

    def _take(self) -> list[Event]:
        """Return the next events; without any, the next `put()` starts a new task."""
        with self._progress:
            self._timed = False
            batch = [self._waiting.popleft() for _ in range(min(BATCH_EVENTS, len(self._waiting)))]
            if not batch:
                self._sending = False
                self._progress.notify_all()
        return batch

    def _stopped(self) -> None:
        with self._progress:
            self._sending = False
            self._progress.notify_all()


def _put(events: list[Event]) -> bool:
    """Put `events` into a layer in memory; return False if its methods must be called for that."""
    try:
        # The objects are passed on, so each event is encoded once in the process.
        shared = {"type": BATCH_TYPE, "events": events}
        return layer_calls.put(channel_layer(), shared_group(site_tag()), shared)
    except Exception:
        return False  # The task that calls the layer finds the same, and logs it.


def _calls(events: list[Event]) -> list[layer_calls.Call]:
    """Return the calls of the layer that send `events`, each with the layer groups it sends to."""
    try:
        layer, tag = channel_layer(), site_tag()
        if is_in_memory():
            shared = {"type": BATCH_TYPE, "events": events}
            return layer_calls.sends(layer, {shared_group(tag): shared})
        by_group: dict[str, list[Event]] = {}
        for event in events:
            by_group.setdefault(layer_group(event.group, tag), []).append(event)
        messages = {group: _message(some) for group, some in by_group.items()}
        return layer_calls.sends(layer, messages)
    except Exception as error:
        _refused({event.group for event in events}, error)
        return []


async def _held(groups: Collection[str], call: Callable[[], Awaitable[None]]) -> bool:
    """Do one call; return whether the layer took the events."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            with contained():
                await call()
        return True
    except Exception as error:
        _refused(groups, error)
        return False


def _refused(groups: Collection[str], error: Exception) -> None:
    _refused_log(
        "The channel layer did not take the events of %d group(s) (%r); streams read the durable "
        "ones from the log.",
        len(groups),
        error,
        extra=log_fields(groups=groups, error=error),
    )


def _message(events: list[Event]) -> dict[str, Any]:
    if len(events) == 1:
        return events[0].to_message()
    return {"type": BATCH_TYPE, "events": [event.to_message() for event in events]}


_lock = threading.RLock()
_hub_outboxes: list[Outbox] = []
_background: Outbox | None = None
_no_loop_until = 0.0


class SweptHub(Protocol):
    """The hub, as the sweep sees it."""

    @property
    def changes(self) -> int | None:
        """A number that changes with the log; None if the log can't notice appends."""


class HubOutbox:
    """A service of the hub, see `HubService`: events of this process are sent on the hub's loop.

    It also numbers and sends committed events whose publisher ended before numbering them.
    """

    name: Final = "sweep"

    def __init__(self) -> None:
        self._outbox = Outbox(asyncio.get_running_loop(), connected=True)
        self._changes: Callable[[], int | None] = lambda: None
        #: The number of the hub's changes before the last sweep that found nothing, and its time.
        self._swept: tuple[int | None, float] = None, 0.0

    async def start(self, hub: SweptHub | None) -> None:
        """Send on the hub's loop."""
        self._changes = lambda: hub.changes if hub else None
        with _lock:
            _hub_outboxes.append(self._outbox)

    async def run(self) -> None:
        """Number and send every `SWEEP_INTERVAL`, until cancelled."""
        await every(lambda: settings().SWEEP_INTERVAL, self._sweep)

    async def _sweep(self) -> None:
        """Number and send committed events without offsets, if the log may have changed."""
        changes, now = self._changes(), time.monotonic()
        swept, at = self._swept
        if changes is not None and changes == swept and now < at + WATCHED_SECONDS:
            return
        numbered = await event_log().anumber()
        send(numbered)
        self._swept = None if numbered else changes, now

    def close(self) -> None:
        """Stop sending on the hub's loop."""
        with _lock:
            if self._outbox in _hub_outboxes:
                _hub_outboxes.remove(self._outbox)


def _outbox() -> Outbox:
    global _background, _no_loop_until
    with _lock:
        while _hub_outboxes:
            if not _hub_outboxes[-1].loop.is_closed():
                return _hub_outboxes[-1]
            _hub_outboxes.pop()
        if _background is None:
            if time.monotonic() < _no_loop_until:
                raise RuntimeError("no event loop could be made a moment ago")
            _no_loop_until = time.monotonic() + LOOP_RETRY_SECONDS
            _background = Outbox(start_loop("sse_app-layer"), connected=False)
            _no_loop_until = 0.0
            # Unlike atexit, Finalize also runs when a child of multiprocessing ends.
            Finalize(None, _background.flush, args=(SEND_SECONDS,), exitpriority=0)
        return _background


def _reset_after_fork() -> None:
    """In a forked child, the parent's loops do not run."""
    global _background, _lock, _no_loop_until
    _no_loop_until = 0.0
    _lock = threading.RLock()
    _hub_outboxes.clear()
    _background = None


at_fork(_reset_after_fork)


def is_loop_of_hub() -> bool:
    """Return whether the running loop serves streams, and so lives as long as they do."""
    loop = _running_loop()
    return any(outbox.loop is loop for outbox in list(_hub_outboxes))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    # Without a loop, get_running_loop() raises, which takes ten times as long.
    return asyncio._get_running_loop()
