"""`FlushQueue`: what is written within one turn of the event loop leaves together, at its end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol
from weakref import WeakKeyDictionary, ref

#: Beyond so many bytes, what was written goes at once and not at the end of the turn.
FLUSH_BYTES: Final = 64 * 1024
#: To so many streams it goes before the event loop turns again.
FLUSH_STREAMS: Final = 1000


def frame(chunk: bytes) -> bytes:
    """Return `chunk` as a chunk of HTTP/1.1 (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


class Flushable(Protocol):
    """A transport that writes at the end of the turn."""

    def flush(self) -> None:
        """Write everything that waits."""


class FlushQueue:
    """What the streams of one loop wrote in this turn, let go at its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Held weakly by the table of them, so not held strongly here.
        self._loop = ref(loop)
        self._waiting: deque[Flushable] = deque()
        self._chunk = self._framed = b""

    def add(self, transport: Flushable) -> None:
        """Flush `transport` at the end of this turn."""
        if not self._waiting:
            self._soon()
        self._waiting.append(transport)

    def framed(self, chunk: bytes) -> bytes:
        """Return `chunk` as an HTTP/1.1 chunk: made once for all streams that get the same."""
        if chunk is not self._chunk:
            self._chunk, self._framed = chunk, frame(chunk)
        return self._framed

    def _run(self) -> None:
        # In slices, so that a flush to thousands delays nothing else for long.
        for _ in range(min(FLUSH_STREAMS, len(self._waiting))):
            self._waiting.popleft().flush()
        if self._waiting:
            self._soon()

    def _soon(self) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_soon(self._run)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, FlushQueue] = WeakKeyDictionary()


def flush_queue(loop: asyncio.AbstractEventLoop) -> FlushQueue:
    """Return the flushes of `loop`."""
    queue = _queues.get(loop)
    if queue is None:
        queue = _queues[loop] = FlushQueue(loop)
    return queue
