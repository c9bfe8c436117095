"""A client that sends whatever bytes it is given, and reads what comes back by the book."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .patience import PATIENCE

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ?([^\r\n]*)\Z")

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Request:
    """One request as bytes. `cut`: it promises more than it sends, so the client hangs up."""

    method: bytes = b"GET"
    target: bytes = b"/"
    headers: Headers = ()
    body: bytes = b""
    version: bytes = b"HTTP/1.1"
    cut: bool = False

    @property
    def raw(self) -> bytes:
        """The bytes on the wire; Host and Content-Length are added unless they are given."""
        given = {name.lower() for name, _ in self.headers}
        headers = list(self.headers)
        if b"host" not in given:
            headers.insert(0, (b"Host", b"127.0.0.1"))
        if self.body and not given & {b"content-length", b"transfer-encoding"}:
            headers.append((b"Content-Length", str(len(self.body)).encode()))
        lines = [b"%b: %b\r\n" % header for header in headers]
        start = b"%b %b %b\r\n" % (self.method, self.target, self.version)
        return b"%b%b\r\n%b" % (start, b"".join(lines), self.body)

    def having(self, *headers: tuple[bytes, bytes]) -> Request:
        """Return the same request with these headers too."""
        own = (*self.headers, *headers)
        return Request(self.method, self.target, own, self.body, self.version, self.cut)


@dataclass
class Answer:
    """What the server said. A stream is read up to the end of its first event."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    last: bool = False

    @property
    def is_stream(self) -> bool:
        """Is it an event stream?"""
        return self.headers.get("content-type", "").startswith("text/event-stream")


class Malformed(AssertionError):
    """The answer is not HTTP."""


class Connection:
    """Sends one request after the other, on one connection for as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._buffer = b""

    def ask(self, request: Request, *, keep: bool = False) -> Answer | None:
        """Return the answer; None where the server hung up without a word.

        `keep`: a stream stays open until `close()` or `reset()`.
        """
        connection = self._socket or self._connect()
        self._socket = connection
        answer = None
        try:
            connection.sendall(request.raw)
            if request.cut:
                connection.shutdown(socket.SHUT_WR)
            answer = self._read(request.method)
        except (ConnectionError, EOFError):
            pass  # What it had said before counts; mostly it closed on reading nonsense.
        if answer is None or request.cut or (answer.last and not keep):
            self.close()
        return answer

    def reset(self) -> None:
        """Hang up by RST, as the system does for a process that was killed."""
        if self._socket is not None:
            linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def close(self) -> None:
        """Hang up by FIN."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def _connect(self) -> socket.socket:
        self._buffer = b""
        return socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)

    def _read(self, method: bytes) -> Answer:
        answer = self._read_head()
        while answer.status < 200:
            answer = self._read_head()
        keeps = answer.headers.get("connection", "").lower() != "close"
        if method == b"HEAD" or answer.status in (204, 304):
            answer.last = not keeps or method == b"HEAD"
        elif answer.headers.get("transfer-encoding", "").lower() == "chunked":
            answer.last = not self._read_chunks(answer) or not keeps
        elif "content-length" in answer.headers:
            answer.body = self._take(int(answer.headers["content-length"]))
            answer.last = not keeps
        else:
            answer.body, answer.last = self._take_rest(answer.is_stream), True
        return answer

    def _read_head(self) -> Answer:
        head = self._until(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        match = _STATUS.match(start)
        if match is None:
            raise Malformed(f"No status line: {start!r}")
        headers = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or b"\n" in line or b"\r" in line:
                raise Malformed(f"No header: {line!r}")
            headers[name.decode("ascii").lower()] = value.strip().decode("latin1")
        return Answer(int(match[1]), headers)

    def _read_chunks(self, answer: Answer) -> bool:
        """Return whether the last chunk came; of a stream, one whole event is enough."""
        while True:
            size = int(self._until(b"\r\n"), 16)
            answer.body += self._take(size)
            if self._take(2) != b"\r\n":
                raise Malformed("A chunk does not end where it says.")
            if size == 0:
                return True
            if answer.is_stream and b"\n\n" in answer.body:
                return False

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            self._receive()
        taken, _, self._buffer = self._buffer.partition(end)
        return taken

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _take_rest(self, is_stream: bool) -> bytes:
        try:
            while not (is_stream and b"\n\n" in self._buffer):
                self._receive()
        except (ConnectionError, EOFError):
            pass
        return self._buffer

    def _receive(self) -> None:
        assert self._socket is not None
        chunk = self._socket.recv(65536)
        if not chunk:
            raise EOFError
        self._buffer += chunk


def pairs(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return headers as bytes."""
    return tuple((name.encode("latin1"), value.encode("latin1")) for name, value in headers)
