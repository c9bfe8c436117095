"""Sending on the channel layer, from anywhere: any thread, any loop, or no loop at all.

Sends run on the hub's loop if this process has a hub, since an in-memory layer only wakes a
receiver from its own loop; else on one background loop, so that plain sync code has one
connection to Redis and not one per call. The layer carries events fast and may lose them: the
event log is the truth, so nothing here raises.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from channels.layers import channel_layers
from channels.layers import get_channel_layer as get_layer
from django.core.exceptions import ImproperlyConfigured

from . import signals
from .conf import settings
from .events import BATCH_TYPE, Event
from .groups import CONTROL_GROUP

GROUP_PREFIX: Final = "sse_app."
WAITING_EVENTS: Final = 10_000
BATCH_EVENTS: Final = 100
SEND_SECONDS: Final = 2.0

logger = logging.getLogger("sse_app")


def channel_layer() -> Any:
    """Return the channel layer that `SSE_APP["CHANNEL_LAYER"]` names.

    Raises `ImproperlyConfigured` if there is none by that name.
    """
    alias = settings().CHANNEL_LAYER
    layer = get_layer(alias)
    if layer is None:
        known = ", ".join(map(repr, channel_layers.configs)) or "none"
        raise ImproperlyConfigured(
            f"SSE_APP['CHANNEL_LAYER'] is {alias!r}, but CHANNEL_LAYERS has {known}. For one "
            "process: CHANNEL_LAYERS = {'default': {'BACKEND': "
            "'channels.layers.InMemoryChannelLayer'}}."
        )
    return layer


def layer_group(group: str) -> str:
    """Return the name that `group` has on the channel layer."""
    return GROUP_PREFIX + group


def send(events: Sequence[Event]) -> None:
    """Hand `events` to the channel layer and to the receivers of `event_published`.

    Returns at once where this process has a hub; else when the layer has them, or after two
    seconds without an answer.
    """
    if not events:
        return
    outbox = _outbox()
    done = outbox.put(events)
    if outbox.waited_for and not _in_a_loop():
        done.wait(SEND_SECONDS)
    if signals.event_published.receivers:
        for event in events:
            if event.group != CONTROL_GROUP:
                signals.event_published.send_robust(sender=Event, event=event)


class Outbox:
    """Events on their way to the channel layer, sent in order by one task of `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, waited_for: bool) -> None:
        self.loop = loop
        self.waited_for = waited_for
        self._waiting: deque[Event | threading.Event] = deque(maxlen=WAITING_EVENTS)
        self._task: asyncio.Task[None] | None = None

    def put(self, events: Sequence[Event]) -> threading.Event:
        """Queue `events`, from any thread; what it returns is set when they have been sent.

        When ten thousand wait, the oldest are dropped: the log heals them.
        """
        done = threading.Event()
        if len(self._waiting) + len(events) >= WAITING_EVENTS:
            logger.warning("More than %d events wait for the channel layer.", WAITING_EVENTS)
        self._waiting.extend(events)
        self._waiting.append(done)
        if _running_loop() is self.loop:
            self._wake()
        else:
            self.loop.call_soon_threadsafe(self._wake)
        return done

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = self.loop.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        while self._waiting:
            batch: dict[str, list[Event]] = {}
            done: list[threading.Event] = []
            for _ in range(min(BATCH_EVENTS, len(self._waiting))):
                item = self._waiting.popleft()
                if isinstance(item, Event):
                    batch.setdefault(item.group, []).append(item)
                else:
                    done.append(item)
            for group, events in batch.items():
                await self._send(group, events)
            for item in done:
                item.set()

    async def _send(self, group: str, events: list[Event]) -> None:
        messages = [event.to_message() for event in events]
        message = messages[0] if len(messages) == 1 else {"type": BATCH_TYPE, "events": messages}
        try:
            await channel_layer().group_send(layer_group(group), message)
        except Exception as error:
            logger.warning(
                "The channel layer did not take %d event(s) of group %s (%r); streams get the "
                "durable ones from the log.",
                len(events),
                group,
                error,
            )


_lock = threading.Lock()
_home: list[Outbox] = []
_background: Outbox | None = None


def adopt(loop: asyncio.AbstractEventLoop) -> None:
    """Send on `loop` from now on: a hub runs there."""
    with _lock:
        _home.append(Outbox(loop, waited_for=False))


def release(loop: asyncio.AbstractEventLoop) -> None:
    """Take back one `adopt()`."""
    with _lock:
        for outbox in _home:
            if outbox.loop is loop:
                _home.remove(outbox)
                return


def _outbox() -> Outbox:
    global _background
    with _lock:
        while _home:
            if not _home[-1].loop.is_closed():
                return _home[-1]
            _home.pop()
        if _background is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="sse_app-layer", daemon=True).start()
            _background = Outbox(loop, waited_for=True)
        return _background


def _forget() -> None:
    """In a forked child: the parent's loops do not run here."""
    global _background, _lock
    _lock = threading.Lock()
    _home.clear()
    _background = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _in_a_loop() -> bool:
    return _running_loop() is not None
