"""Writing to Daphne's own request: with flow control, and straight to the socket.

Daphne's `send` never waits and bounds nothing, but its request is Twisted's, which tells a producer
when its reader takes no more. And Twisted arms and disarms its writer for every write, which costs
more than the write: so where it has nothing buffered, bytes go past it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any, Final
from weakref import WeakSet

from ...conf import settings
from ...runtime.telemetry import COUNTS, log_fields
from ..notify import Notify
from .asgi import END, END_SECONDS, Direct, Receive, Send, Transport
from .chunked import FLUSH_BYTES, flush_queue

SEND_BUFFER_BYTES: Final = 128 * 1024

logger = logging.getLogger("sse_app")


class DaphneTransport(Transport):
    """Writes to a Daphne request; a push producer, in Twisted's words, that Twisted pauses.

    What is written within one turn of the event loop leaves together. Past Twisted it goes only
    on plain TCP in HTTP/1.1 chunks, and only while Twisted has nothing buffered.
    """

    def __init__(self, send: Send, receive: Receive, request: Any) -> None:
        super().__init__(send, receive)
        self._request = request
        self._flush_queue = flush_queue(asyncio.get_running_loop())
        self._pending: list[bytes] = []
        self._size = 0
        self._socket: Any = None
        self._tcp: Any = None
        self._registered = False
        self._paused_at = 0.0
        self._resumed = Notify()
        self._finished = False

    async def start(self) -> None:
        # The headers go with the first body message, and only then it is known how bodies go.
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        if self._request.channel is None:
            self._break()
            return
        # Daphne keeps a body that came with the GET twice until the response ends, which is long.
        self._request.content.close()
        self._tcp = plain_tcp(self._request)
        if self._tcp is None:
            self._register()
            self._watch()
            return
        self._socket = self._tcp.getHandle()
        bound(self._socket)
        # In place of `receive()`, for which a task would have to wait.
        self._request.notifyFinish().addBoth(self._gone)
        queue = self._request.application_queue
        while not queue.empty():
            queue.get_nowait()
        # The headers leave, and what is kept of them goes: it is a kilobyte.
        self._tcp.doWrite()
        self._request.responseHeaders = type(self._request.responseHeaders)()

    @property
    def ready(self) -> bool:
        return not self._paused_at

    @property
    def waiting(self) -> int:
        tcp = self._tcp
        return self._size + (len(tcp.dataBuffer) + tcp._tempDataLen if tcp is not None else 0)

    def write(self, chunk: bytes) -> None:
        if self._broken or self._finished:
            return
        if not self._pending:
            self._flush_queue.add(self)
        self._pending.append(chunk)
        self._size += len(chunk)
        if self._size > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Let go what was written."""
        pending = self._pending
        if not pending or self._broken:
            return
        chunk = pending[0] if len(pending) == 1 else b"".join(pending)
        pending.clear()
        self._size = 0
        try:
            self._write(chunk)
        except Exception as error:
            logger.debug(
                "A stream could not be written to: %r", error, extra=log_fields(error=error)
            )
            self._break()

    def _write(self, chunk: bytes) -> None:
        tcp = self._tcp
        if tcp is None or _buffers(tcp):
            self._register()
            self._request.write(chunk)
            return
        framed = self._flush_queue.framed(chunk)
        try:
            sent = self._socket.send(framed)
        except BlockingIOError:
            sent = 0
        self._request.sentLength += len(chunk)
        if sent < len(framed):
            self._write_rest(framed[sent:])

    def _write_rest(self, framed: bytes) -> None:
        self._register()
        self._tcp.write(framed)

    def _register(self) -> None:
        """Let Twisted pause us. Only who was slow once is: it makes Twisted's channel larger."""
        if not self._registered:
            self._registered = True
            self._request.registerProducer(self, True)

    # --- while a cohort writes for it ---

    def direct(self) -> Direct | None:
        self.flush()
        if self._tcp is None or self._paused_at or _buffers(self._tcp):
            return None
        send: Direct = self._socket.send
        return send

    def joined_cohort(self, before: int) -> None:
        self._request.sentLength -= before

    def left_cohort(self, before: int, rest: bytes | None) -> None:
        self._request.sentLength += before
        if rest is None:
            self._break()
        elif rest:
            self._write_rest(rest)

    async def drained(self) -> None:
        while self._paused_at and not self._broken:
            await self._resumed.next()

    async def finish(self) -> None:
        if self._finished:
            return
        self.flush()
        self._finished = True
        self._unwatch()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.drained()
        except TimeoutError:
            self._abort("stalled")
        if self._broken or self._request.channel is None:
            return
        try:
            if self._registered:
                self._request.unregisterProducer()
            await self._send(dict(END))
            if self._tcp is not None:
                _ending.add(self._tcp)
        except Exception as error:
            self._broken = True
            logger.debug(
                "The response could not be ended: %r", error, extra=log_fields(error=error)
            )

    def check(self, now: float) -> None:
        if self._paused_at and now - self._paused_at > settings().STALL_SECONDS:
            COUNTS.stalled += 1
            self._abort("stalled")

    # --- IPushProducer, called by Twisted ---

    def pauseProducing(self) -> None:
        """The client takes no more for now."""
        self._paused_at = self._paused_at or time.monotonic()

    def resumeProducing(self) -> None:
        """What waited has left."""
        self._paused_at = 0.0
        self._resumed.set()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._break("disconnect")

    def _gone(self, reason: object) -> None:
        if not self._finished:
            self._break("disconnect")

    def _abort(self, reason: str) -> None:
        if self._request.channel is not None:
            abort(self._request)
        self._break(reason)

    def _break(self, reason: str = "broken") -> None:
        if not self._broken:
            self._broken = True
            self._pending.clear()
            self._resumed.set()
            self.on_broken(reason)


#: The connections of streams that have ended, whose last bytes are Twisted's to write.
_ending: WeakSet[Any] = WeakSet()


def is_sending() -> bool:
    """Whether the end of some stream has not left yet."""
    return any(tcp.connected and (tcp.dataBuffer or tcp._tempDataLen) for tcp in list(_ending))


def _buffers(tcp: Any) -> bool:
    """Whether something waits that must leave before, or nothing can."""
    return bool(tcp.dataBuffer or tcp._tempDataLen or not tcp.connected)


def plain_tcp(request: Any) -> Any:
    """Return the Twisted transport under a request if it may be written past, else None."""
    channel = request.channel
    tcp: Any = getattr(channel, "transport", None)
    known = all(hasattr(tcp, name) for name in ("dataBuffer", "_tempDataLen", "connected"))
    plain = known and not getattr(tcp, "TLS", False) and hasattr(tcp, "getHandle")
    chunked = getattr(request, "chunked", 0) == 1 and not hasattr(request, "stream_id")
    return tcp if plain and chunked and isinstance(tcp.getHandle(), socket.socket) else None


def abort(request: Any) -> None:
    """Drop a request's connection; of HTTP/2 only its stream, as others share the connection."""
    if request.transport is not None:
        request.transport.abortConnection()
        return
    from twisted.internet.error import ConnectionAborted
    from twisted.python.failure import Failure

    channel = request.channel
    channel.abortConnection()
    # To whom a stream is reset from here, Twisted does not say so.
    request.connectionLost(Failure(ConnectionAborted()))  # type: ignore[no-untyped-call]


def bound(handle: socket.socket) -> None:
    """Bound what the kernel keeps for a reader, and for how long one that is gone may be silent."""
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT") and handle.family in (socket.AF_INET, socket.AF_INET6):
        milliseconds = int(settings().STALL_SECONDS * 1000)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
