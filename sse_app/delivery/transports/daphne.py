"""`DaphneTransport`: writes to Daphne's request, with flow control, and directly to the socket.

Daphne's `send` never waits and has no limit. But its request is a Twisted request, which pauses a
producer when the client takes no more. For each write, Twisted also adds its socket to the event
loop and removes it again, which costs more than the write. Therefore bytes are written directly to
the socket while Twisted has no buffered bytes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from math import inf
from typing import Any, Final
from weakref import WeakSet

from ...conf import settings
from ...runtime.telemetry import COUNTS, log_fields
from ..notify import Notify
from . import daphne_connections
from .asgi import END, END_SECONDS, Direct, Receive, Send, Transport
from .chunked import FLUSH_BYTES, flush_queue

SEND_BUFFER_BYTES: Final = 128 * 1024

logger = logging.getLogger("sse_app")


class DaphneTransport(Transport):
    """Writes to a Daphne request, as a push producer that Twisted pauses.

    All writes of one loop iteration are sent together. They are written directly to the socket only
    on plain TCP with HTTP/1.1 chunks, and only while Twisted has no buffered bytes.
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
        # Twisted writes the headers with the first body message, and then knows if it uses chunks.
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        if self._request.channel is None:
            self._break()
            return
        # Daphne keeps two copies of a GET's body until the response ends, here for hours.
        self._request.content.close()
        daphne_connections.skip(self._request)
        self._tcp = plain_tcp(self._request)
        if self._tcp is None:
            self._register()
            self._watch()
            return
        self._socket = self._tcp.getHandle()
        bound(self._socket)
        # Instead of `receive()`, which needs a task for each stream.
        self._request.notifyFinish().addBoth(self._gone)
        queue = self._request.application_queue
        while not queue.empty():
            queue.get_nowait()
        # Send the headers, then free them: they take a kilobyte for each stream.
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
        """Send the pending bytes."""
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
        self.on_waiting(time.monotonic() + settings().STALL_SECONDS)
        self._register()
        self._tcp.write(framed)

    def _register(self) -> None:
        """Have Twisted pause this producer; late, because that makes Twisted's channel larger."""
        if not self._registered:
            self._registered = True
            self._request.registerProducer(self, True)

    # --- while a cohort writes ---

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

    def check(self, now: float) -> float:
        if not self._paused_at:
            return inf
        if now - self._paused_at > settings().STALL_SECONDS:
            COUNTS.stalled += 1
            self._abort("stalled")
        return self._paused_at + settings().STALL_SECONDS

    # --- IPushProducer, called by Twisted ---

    def pauseProducing(self) -> None:
        """Note that the client takes no more for now."""
        self._paused_at = self._paused_at or time.monotonic()
        self.on_waiting(self._paused_at + settings().STALL_SECONDS)

    def resumeProducing(self) -> None:
        """Note that the buffered bytes were sent."""
        self._paused_at = 0.0
        self._resumed.set()

    def stopProducing(self) -> None:
        """Note that the client has disconnected."""
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
            daphne_connections.check(self._request)  # It cancels an application that does not end.
            self._pending.clear()
            self._resumed.set()
            self.on_broken(reason)


#: The connections of streams that have ended; Twisted may still have to send their last bytes.
_ending: WeakSet[Any] = WeakSet()


def is_sending() -> bool:
    """Whether Twisted still has to send the last bytes of a stream that has ended."""
    return any(tcp.connected and (tcp.dataBuffer or tcp._tempDataLen) for tcp in list(_ending))


def _buffers(tcp: Any) -> bool:
    """Whether Twisted has buffered bytes, which must be sent first, or is disconnected."""
    return bool(tcp.dataBuffer or tcp._tempDataLen or not tcp.connected)


def plain_tcp(request: Any) -> Any:
    """Return a request's Twisted transport if its socket may be written to directly, else None."""
    channel = request.channel
    tcp: Any = getattr(channel, "transport", None)
    known = all(hasattr(tcp, name) for name in ("dataBuffer", "_tempDataLen", "connected"))
    plain = known and not getattr(tcp, "TLS", False) and hasattr(tcp, "getHandle")
    chunked = getattr(request, "chunked", 0) == 1 and not hasattr(request, "stream_id")
    return tcp if plain and chunked and isinstance(tcp.getHandle(), socket.socket) else None


def abort(request: Any) -> None:
    """Drop a request's connection; with HTTP/2 only its stream, as others share the connection."""
    if request.transport is not None:
        request.transport.abortConnection()
        return
    from twisted.internet.error import ConnectionAborted
    from twisted.python.failure import Failure

    channel = request.channel
    channel.abortConnection()
    # Twisted does not notify the request when its own side resets the stream.
    request.connectionLost(Failure(ConnectionAborted()))  # type: ignore[no-untyped-call]


def bound(handle: socket.socket) -> None:
    """Limit the kernel's send buffer, and the time without acknowledgement from the client."""
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT") and handle.family in (socket.AF_INET, socket.AF_INET6):
        milliseconds = int(settings().STALL_SECONDS * 1000)
        handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
