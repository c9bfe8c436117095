"""`Transport`: the contract of how a stream's bytes are sent; and `AsgiTransport`, for any server.

`AsgiTransport` uses only ASGI's `send`. For Daphne there is `daphne.DaphneTransport`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final

from ...conf import settings
from ...runtime.telemetry import COUNTS, log_fields

#: The most bytes of one body message: each message that a slow client takes shows progress.
SEND_BYTES: Final = 64 * 1024
#: How long the end of a response may take; a client that does not take it by then has stalled.
END_SECONDS: Final = 1.0

logger = logging.getLogger("sse_app")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
#: Like `socket.send`: takes bytes and returns how many were sent, or raises `BlockingIOError`.
Direct = Callable[[bytes], int]

END: Final = {"type": "http.response.body", "body": b"", "more_body": False}


class Transport(ABC):
    """Takes whole event blocks after the response has started. Never blocks its caller.

    `on_broken` is called once when no more can be written: with `"disconnect"` if the client has
    disconnected, `"stalled"` if no bytes were sent for `STALL_SECONDS`, else `"broken"`.
    """

    on_broken: Callable[[str], None] = staticmethod(lambda reason: None)
    #: Called when bytes begin to wait, with the latest time for the next `check()`.
    on_waiting: Callable[[float], None] = staticmethod(lambda check_at: None)

    def __init__(self, send: Send, receive: Receive) -> None:
        self._send = send
        self._receive = receive
        self._broken = False
        self._watching: asyncio.Task[None] | None = None

    @abstractmethod
    async def start(self) -> None:
        """Begin, after the response has started."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether the transport can take more now."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many bytes were taken and not yet sent, as far as this process knows."""

    @abstractmethod
    def write(self, chunk: bytes) -> None:
        """Take one or more whole blocks, which are sent now or later, in order."""

    @abstractmethod
    async def drained(self) -> None:
        """Return when all bytes were sent, or when the transport is broken."""

    def direct(self) -> Direct | None:
        """See `Sink.direct()`."""
        return None

    def joined_cohort(self, before: int) -> None:
        """See `Sink.joined_cohort()`."""
        raise NotImplementedError

    def left_cohort(self, before: int, rest: bytes | None) -> None:
        """See `Sink.left_cohort()`. `before`: the cohort's count; `rest` is framed."""
        raise NotImplementedError

    @abstractmethod
    async def finish(self) -> None:
        """Send the waiting bytes and end the response cleanly. Safe to call twice."""

    @abstractmethod
    def check(self, now: float) -> float:
        """Check for a stalled client at `now`; return when to check again.

        Both are times by the monotonic clock. If no bytes wait, `math.inf`: see `on_waiting`.
        """

    @abstractmethod
    def _break(self, reason: str = "broken") -> None:
        """Drop the waiting bytes and call `on_broken`, once."""

    def _watch(self) -> None:
        """Receive ASGI's `http.disconnect` in a task."""
        self._watching = asyncio.ensure_future(self._until_disconnect())

    def _unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _until_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._break("disconnect")


class AsgiTransport(Transport):
    """A bounded queue, and a task that sends its blocks in body messages.

    `abort` drops the connection, for which ASGI has no message. Without `abort`, a server waits
    without limit until its client has taken the rest of a response, and keeps its buffer.
    """

    def __init__(
        self, send: Send, receive: Receive, abort: Callable[[], None] | None = None
    ) -> None:
        super().__init__(send, receive)
        self._abort = abort
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._since = 0.0
        self._finished = False

    async def start(self) -> None:
        self._watch()

    @property
    def ready(self) -> bool:
        limits = settings()
        return len(self._waiting) < limits.QUEUE_EVENTS and self._bytes < limits.QUEUE_BYTES

    @property
    def waiting(self) -> int:
        return self._bytes

    def write(self, chunk: bytes) -> None:
        if self._broken or self._finished:
            return
        self._waiting.append(chunk)
        self._bytes += len(chunk)
        if self._writer is None:
            self._since = time.monotonic()
            self.on_waiting(self._since + settings().STALL_SECONDS)
            self._writer = asyncio.get_running_loop().create_task(self._write())
            self._writer.add_done_callback(self._written)

    async def drained(self) -> None:
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._unwatch()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.drained()
                if not self._broken:
                    await self._send(dict(END))
        except Exception as error:
            logger.debug(
                "The response could not be ended: %r", error, extra=log_fields(error=error)
            )
            self._break()
        except asyncio.CancelledError:
            self._break()
            raise

    def check(self, now: float) -> float:
        if self._writer is None:
            return inf
        if now - self._since > settings().STALL_SECONDS:
            COUNTS.stalled += 1
            self._break("stalled")
        return self._since + settings().STALL_SECONDS

    async def _write(self) -> None:
        while self._waiting:
            body = self._next_body()
            self._since = time.monotonic()
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            self._bytes -= len(body)
        # Clear `_writer` inside the task, not in its done callback: a `write()` between the task's
        # end and the callback would otherwise append to a queue that nobody sends.
        self._writer = None

    def _next_body(self) -> bytes:
        chunks = [self._waiting.popleft()]
        size = len(chunks[0])
        while self._waiting and size + len(self._waiting[0]) <= SEND_BYTES:
            chunks.append(self._waiting.popleft())
            size += len(chunks[-1])
        return b"".join(chunks)

    def _written(self, writer: asyncio.Task[None]) -> None:
        if writer.cancelled() or writer.exception() is not None:
            self._writer = None
            # When the client has disconnected, each server raises errors of its own from `send`.
            self._break()

    def _break(self, reason: str = "broken") -> None:
        if not self._broken:
            self._broken = True
            self._waiting.clear()
            self._bytes = 0
            if self._writer is not None:
                self._writer.cancel()
            if self._abort is not None:
                self._abort()
            self.on_broken(reason)
