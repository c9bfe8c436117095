"""`stream()`: a client of the project's streams that needs no network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any, Final, Self

from channels.routing import get_default_application
from django.test import AsyncClient, Client
from django.urls import reverse

from ..asgi import is_stream

#: The application has to end this long after its reader has disconnected.
END_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Received:
    """One event as an `EventSource` would dispatch it; `id` is the last id that was sent."""

    name: str
    data: str
    id: str

    def json(self) -> Any:
        """Return the data parsed as JSON; raises `ValueError` if it is invalid."""
        return json.loads(self.data)


def stream(
    reader: Any = None,
    query: str = "",
    *,
    headers: dict[str, str] | None = None,
    timeout: float = 5.0,
) -> TestStream:
    """Return an async context manager that opens a stream; its value reads the stream.

    `reader`: Django's test client, whose cookies are sent, a user, who is logged in, or None.
    `query`: the query of the app's stream, such as `"group=orders"`; or a path, which begins with a
    slash, for example a signed URL or that of a view with an `EventStreamResponse`.
    `timeout`: seconds for each wait; after that the wait raises `AssertionError`.

    In the block, the stream is open: later events are received. The data of `sse.open` is in
    `opened`, and all events are in `received`. At the block's end the reader disconnects, and the
    application ends. If the application raises an exception, the next wait or the end of the block
    raises it.

    The stream runs in the test's event loop and reads the database in other threads. So the test
    needs real transactions (`TransactionTestCase`, `django_db(transaction=True)`), and an SQLite
    test database needs a file.
    """
    return TestStream(reader, query, headers or {}, timeout)


class TestStream:
    """The context manager and reader of `stream()`, which alone makes it."""

    __test__ = False  # For pytest, a class named Test… has tests.

    def __init__(self, reader: Any, query: str, headers: dict[str, str], timeout: float) -> None:
        self.received: list[Received] = []
        #: The data of `sse.open`; None if that was not the first event.
        self.opened: Any = None
        #: The HTTP status: 200 for a stream, 403 if the reader may not listen, 0 before a response.
        self.status = 0
        self.headers: dict[str, str] = {}
        #: The last `retry:`, in seconds.
        self.retry: float | None = None
        #: The number of heartbeats, which are comment lines.
        self.heartbeats = 0
        self._reader = reader
        self._query = query
        self._sent_headers = headers
        self._timeout = timeout
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._read_count = self._heartbeats_read = 0
        self._buffer = b""
        self._body = b""
        self._name, self._data, self._id = "", list[str](), ""

    async def __aenter__(self) -> Self:
        scope = await self._scope()
        self._inbox.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        application = get_default_application()
        self._running = asyncio.ensure_future(application(scope, self._inbox.get, self._receive))
        self._running.add_done_callback(lambda _: self._changed.set())
        try:
            await self._until(lambda: self.status, "a response")
            if self.status == 200 and is_stream(scope):
                await self._until(lambda: self.received, "the first event")
                if self.received[0].name == "sse.open":
                    self.opened, self._read_count = self.received[0].json(), 1
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self._leave()
        if error is None:
            self._raise_its_error()

    async def next(self) -> Received:
        """Return the next event, which may be a control event such as `sse.reset`.

        Raises `AssertionError` if no event comes in time, or the stream has ended.
        """
        await self._until(lambda: self._read_count < len(self.received), "an event")
        self._read_count += 1
        return self.received[self._read_count - 1]

    async def take(self, count: int) -> list[Received]:
        """Return the next `count` events. See `next()`."""
        return [await self.next() for _ in range(count)]

    async def until_end(self) -> list[Received]:
        """Wait for the end of the stream, and return the events that have not been read.

        The last one is `sse.close`. Raises `AssertionError` if the stream does not end in time.
        """
        await self._until(lambda: self._ended, "the end")
        rest, self._read_count = self.received[self._read_count :], len(self.received)
        return rest

    async def heartbeat(self) -> None:
        """Wait for the next heartbeat that no earlier call has returned for. See `next()`."""
        await self._until(lambda: self.heartbeats > self._heartbeats_read, "a heartbeat")
        self._heartbeats_read += 1

    @property
    def _ended(self) -> bool:
        return self._running is not None and self._running.done()

    async def _until(self, check: Callable[[], object], awaited: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                while not check():
                    if self._ended:
                        self._raise_its_error()
                        raise AssertionError(
                            f"The stream ended without {awaited}; {self._received_text()}"
                        )
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"No sign of {awaited} within {self._timeout:g} s; {self._received_text()}"
            ) from None

    def _received_text(self) -> str:
        if self.status != 200:
            return f"the answer was {self.status or 'none'}: {self._body.decode(errors='replace')}"
        events = ", ".join(f"{event.name} {event.data}" for event in self.received)
        return f"received so far: {events or 'nothing'}."

    def _raise_its_error(self) -> None:
        if self._running is not None and self._ended and not self._running.cancelled():
            self._running.result()

    async def _leave(self) -> None:
        assert self._running is not None
        self._inbox.put_nowait({"type": "http.disconnect"})
        await asyncio.wait([self._running], timeout=END_SECONDS)
        if not self._running.done():
            self._running.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._running
            raise AssertionError(
                f"The application did not end within {END_SECONDS:g} s after the disconnect."
            )

    async def _scope(self) -> dict[str, Any]:
        target = self._query
        if not target.startswith("/"):
            target = f"{reverse('sse_app:stream')}?{target}"
        path, _, query = target.partition("?")
        headers = {"host": "testserver", "accept": "text/event-stream"}
        cookies = await self._cookies()
        if cookies:
            headers["cookie"] = "; ".join(f"{name}={c.value}" for name, c in cookies.items())
        headers |= {name.lower(): value for name, value in self._sent_headers.items()}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 0),
            "server": ("testserver", 80),
        }

    async def _cookies(self) -> SimpleCookie:
        reader: Any = self._reader
        if reader is None or getattr(reader, "is_anonymous", False):
            return SimpleCookie()
        if not isinstance(reader, Client | AsyncClient):
            client = AsyncClient()
            await client.aforce_login(reader)
            reader = client
        cookies: SimpleCookie = reader.cookies
        return cookies

    async def _receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.headers = {
                name.decode().lower(): value.decode() for name, value in message["headers"]
            }
            self.status = message["status"]
        elif self.status != 200:
            self._body += message.get("body", b"")
        else:
            *lines, self._buffer = (self._buffer + message.get("body", b"")).split(b"\n")
            for line in lines:
                self._line(line.decode())
        self._changed.set()

    def _line(self, line: str) -> None:
        """Parse a line by the HTML Standard, 9.2.6. The app ends lines with `\\n` only."""
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if self._data:
                name, data = self._name or "message", "\n".join(self._data)
                self.received.append(Received(name, data, self._id))
            self._name, self._data = "", []
        elif not field:
            self.heartbeats += 1
        elif field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self._id = value
        elif field == "retry":
            self.retry = int(value) / 1000
