"""An event-stream parser written from the HTML Standard, 9.2.6, independently of the app."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Parsed:
    """One dispatched event."""

    name: str
    data: str
    id: str

    def json(self) -> Any:
        import json

        return json.loads(self.data)

    def opening(self) -> Any:
        """What `sse.open` says, without the connection id, which is another one each time."""
        said = self.json()
        assert isinstance(said.pop("connection"), str)
        return said


@dataclass
class Parser:
    """Feed it bytes in any split; it collects what an `EventSource` would dispatch."""

    events: list[Parsed] = field(default_factory=list)
    comments: int = 0
    retry: int | None = None
    last_id: str = ""
    _buffer: bytes = b""
    _started: bool = False
    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _id: str = ""

    def feed(self, chunk: bytes) -> None:
        self._buffer += chunk
        if not self._started:
            if len(self._buffer) < 3 and b"\xef\xbb\xbf".startswith(self._buffer):
                return
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        while (line := self._next_line()) is not None:
            self._line(line.decode("utf-8", "replace"))

    def _next_line(self) -> bytes | None:
        ends = [i for i in (self._buffer.find(b"\r"), self._buffer.find(b"\n")) if i >= 0]
        if not ends:
            return None
        end = min(ends)
        if self._buffer[end : end + 1] == b"\r":
            if end + 1 == len(self._buffer):
                return None  # a "\n" may follow in the next chunk
            width = 2 if self._buffer[end + 1 : end + 2] == b"\n" else 1
        else:
            width = 1
        line, self._buffer = self._buffer[:end], self._buffer[end + width :]
        return line

    def _line(self, line: str) -> None:
        if line == "":
            self._dispatch()
        elif line.startswith(":"):
            self.comments += 1
        else:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            elif name == "id" and "\0" not in value:
                self._id = value
            elif name == "retry" and value.isascii() and value.isdigit():
                self.retry = int(value)

    def _dispatch(self) -> None:
        self.last_id = self._id
        if self._data:
            self.events.append(Parsed(self._name or "message", "\n".join(self._data), self._id))
        self._name, self._data = "", []
