"""HTTP/1.1 chunks, and `FlushQueue`: all writes of one loop iteration are sent at its end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol
from weakref import WeakKeyDictionary, ref

#: Beyond this many bytes, a stream sends them immediately, not at the end of the iteration.
FLUSH_BYTES: Final = 64 * 1024
#: How many streams are sent to in one loop iteration.
FLUSH_STREAMS: Final = 1000


def frame(chunk: bytes) -> bytes:
    """Return `chunk` in HTTP/1.1 chunked coding (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


class Flushable(Protocol):
    """A transport that sends at the end of the loop iteration."""

    def flush(self) -> None:
        """Send all waiting bytes."""


class FlushQueue:
    """The transports of one loop that have bytes to send at the end of this iteration."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # The registry maps loops weakly to flush queues; a strong reference here would keep the
        # loop alive.
        self._loop = ref(loop)
        self._waiting: deque[Flushable] = deque()
        self._chunk = self._framed = b""

    def add(self, transport: Flushable) -> None:
        """Flush `transport` at the end of this loop iteration."""
        if not self._waiting:
            self._soon()
        self._waiting.append(transport)

    def framed(self, chunk: bytes) -> bytes:
        """Return `frame(chunk)`, made once for consecutive calls with the same object."""
        if chunk is not self._chunk:
            self._chunk, self._framed = chunk, frame(chunk)
        return self._framed

    def _run(self) -> None:
        # In slices, so that a flush of thousands delays other work only for a short time.
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
    """Return the flush queue of `loop`."""
    queue = _queues.get(loop)
    if queue is None:
        queue = _queues[loop] = FlushQueue(loop)
    return queue
