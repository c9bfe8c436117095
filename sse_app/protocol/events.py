"""`Event`: a value that is always valid, its bytes on the wire, and its channel-layer message.

Pure: no I/O and no Django settings. The wire is `text/event-stream` as in the HTML Standard,
section 9.2 "Server-sent events".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from django.core.serializers.json import DjangoJSONEncoder

from .cursors import MAX_BYTES, Position, validate_mark, validate_position
from .groups import CONTROL_GROUP, RESERVED, own_name, validate_full

HEARTBEAT: Final = b":\n"
DEFAULT_NAME: Final = "message"
#: Names with this beginning are published by the app only: a `presence.join` by anybody else would
#: forge a member of a group.
OWN_NAMES: Final = "presence."
#: From so many streams on, a labelled event says how many: their pages load again one by one.
CROWD: Final = 10
MESSAGE_TYPE: Final = "sse.event"
BATCH_TYPE: Final = "sse.events"

_NAME: Final = re.compile(r"(?!sse\.)[A-Za-z0-9_.:-]{1,64}\Z", re.ASCII)
# Clients send only such an id back unchanged as a header: visible ASCII, with inner spaces.
_ID: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z", re.ASCII)
# Made once, because json.dumps() with arguments makes an encoder for each call.
_JSON: Final = DjangoJSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def validate_name(name: object) -> str:
    """Return `name` if it is a valid event name, else raise `ValueError` with the rule."""
    if isinstance(name, str):
        if _NAME.match(name):
            return name
        if name.startswith(RESERVED):
            raise ValueError(
                f"Invalid event name {name!r}: names beginning with {RESERVED!r} are reserved."
            )
    raise ValueError(
        f"Invalid event name {name!r}: 1 to 64 ASCII letters, digits, '_', '.', ':' and '-', "
        "for example 'order.updated'."
    )


def validate_published(name: object) -> str:
    """Return `name` if others than the app may publish it, else raise `ValueError`."""
    valid = validate_name(name)
    if valid.startswith(OWN_NAMES):
        raise ValueError(
            f"Invalid event name {valid!r}: only the app publishes names beginning with "
            f"{OWN_NAMES!r}; choose another name, for example {'room.' + valid!r}."
        )
    return valid


def validate_id(id: object) -> str:
    """Return `id` if it is a valid event id on the wire, else raise `ValueError` with the rule."""
    if isinstance(id, str) and len(id) <= MAX_BYTES and _ID.match(id):
        return id
    raise ValueError(
        f"Invalid event id {id!r}: a str of 1 to {MAX_BYTES} visible ASCII characters, without NUL "
        "and line ends, and with spaces only between other characters."
    )


def to_text(data: object) -> str:
    """Return the text of `data` on the wire: a `str` unchanged, everything else as JSON.

    JSON is made by `DjangoJSONEncoder`: dates, decimals, UUIDs, lazy strings. Raises `TypeError`
    for data that can't be JSON, and `ValueError` for NaN, infinity and lone surrogates.
    """
    if isinstance(data, str):
        text = _with_line_feeds(data)
    else:
        try:
            text = _JSON.encode(data)
        except (TypeError, ValueError, RecursionError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"Event data of type {type(data).__name__} can't be JSON ({error}). Give a str, or "
                "what Django's JSON encoder knows: dict, list, int, float, bool, None, date, "
                "Decimal, UUID."
            ) from error
    _refuse_surrogates(text)
    return text


def _with_line_feeds(text: str) -> str:
    """Return `text` with LF for CR and CRLF, which all end a line of an event stream.

    `str.splitlines()` would also split at eight other characters.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Event data has the lone surrogate {text[error.start]!r} at position {error.start}, "
            "which UTF-8 can't hold; replace it before publishing."
        ) from error


def encode_block(name: str, text: str) -> bytes:
    """Return an event block without its `id:` line; `event: message` is left out."""
    head = "" if name == DEFAULT_NAME else f"event: {name}\n"
    lines = _with_line_feeds(text).replace("\n", "\ndata: ")
    return f"{head}data: {lines}\n\n".encode()


def fits(name: str, text: str, most: int) -> bool:
    """Return whether an event with this text has at most `most` bytes on the wire."""
    return _is_small(text, most) or len(encode_block(name, text)) <= most


def _is_small(text: str, most: int) -> bool:
    # A line feed takes seven bytes ("\ndata: "), any other character less. Most events are far
    # below the limit and need not be encoded for it.
    return 7 * len(text) + 100 <= most


def with_id(block: bytes, id: str) -> bytes:
    """Return a block with its `id:` as the last line.

    Not as the first line: @microsoft/fetch-event-source stores an id as soon as it reads the line.
    If the connection broke before the end of the block, the client would never get the event.
    """
    return b"%bid: %b\n\n" % (block[:-1], id.encode("ascii"))


def encode_control(name: str, data: object, *, id: str = "", retry: float | None = None) -> bytes:
    """Return the block of a control event such as `sse.open`; `retry` is in seconds."""
    block = encode_block(name, to_text(data))
    if id:
        block = with_id(block, id)
    if retry is not None:
        block = b"retry: %d\n%b" % (round(retry * 1000), block)
    return block


class Excluded(NamedTuple):
    """A page that does not get an event, because the page caused it.

    `stream`: the id of the page's stream at that time. `user`: the key of its user with the
    namespace before it, "" for an anonymous visitor. `tab`: the page's own id, which stays the
    same when the page reconnects; "" for a client without one.
    """

    stream: str
    user: str
    tab: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of a group.

    `group` is the full name, which begins with the namespace where the project has tenants.
    `data` is the text on the wire, with `\\n` for all line ends, as every client will see it.
    `offset` counts the group's events from 1, and `epoch` names the log in which it counts; both
    are None for a non-durable event, and for a durable event until its transaction has committed.
    `mark` is the event's random mark in that log, and `previous` the mark of the event before it;
    "" for a mark that is not known, see `Position`.
    `key`: for a reader that lags, an event replaces earlier non-durable events with the same key.
    """

    group: str
    name: str = DEFAULT_NAME
    data: str = ""
    key: str | None = None
    durable: bool = True
    epoch: str | None = None
    offset: int | None = None
    mark: str = ""
    previous: str = ""

    #: Not a field, so that events without it cost nothing, and ignored when events are compared.
    excluded = tuple[Excluded, ...]()

    def __post_init__(self) -> None:
        if self.group != CONTROL_GROUP and validate_full(self.group) is not self.group:
            raise TypeError(f"Event.group must be a str, not {self.group!r}; use Event.of().")
        validate_name(self.name)
        if not isinstance(self.data, str):
            raise TypeError(f"Event.data must be a str, not {type(self.data).__name__}.")
        if "\r" in self.data:
            raise ValueError("Event.data has a carriage return; Event.of() turns it into '\\n'.")
        _refuse_surrogates(self.data)
        if self.key is not None and not isinstance(self.key, str):
            raise TypeError(f"Event.key must be a str or None, not {self.key!r}.")
        if (self.epoch is None) != (self.offset is None):
            raise ValueError(f"An offset ({self.offset!r}) needs an epoch ({self.epoch!r}).")

    @classmethod
    def of(cls, group: str, name: str, data: object, **fields: Any) -> Self:
        """Return an event to publish; for `data`, see `to_text()`.

        Raises `ValueError` for a group or a name to which only the app publishes: see `of_app()`.
        """
        return cls.of_app(validate_full(group), validate_published(name), data, **fields)

    @classmethod
    def of_app(cls, group: str, name: str, data: object, **fields: Any) -> Self:
        """Return an event that the app publishes, for example to `CONTROL_GROUP` or of presence.

        `group` and `name` must never be texts of a page, a program or the project.
        """
        return cls(group=group, name=name, data=to_text(data), **fields)

    def at(self, epoch: str, offset: int, mark: str = "", previous: str = "") -> Self:
        """Return the event with its position in the group's log."""
        validate_mark(mark)
        validate_mark(previous)
        return self._at(epoch, offset, mark, previous)

    def _at(self, epoch: str, offset: int, mark: str, previous: str) -> Self:
        validate_position(epoch, offset)
        # Attributes are copied, because a valid event needs no validation again.
        numbered = object.__new__(type(self))
        numbered.__dict__.update(
            self.__dict__, epoch=epoch, offset=offset, mark=mark, previous=previous
        )
        return numbered

    def following(self, position: Position, mark: str) -> Self:
        """Return the event as the next one after `position`; `mark` is from `new_mark()`."""
        return self._at(position.epoch, position.offset + 1, mark, position.mark)

    @property
    def position(self) -> Position | None:
        """The position after this event; None if it has no offset."""
        if self.offset is None or self.epoch is None:
            return None
        return Position(self.epoch, self.offset, self.mark)

    def limited(self, most: int) -> Self:
        """Return the event if it has at most `most` bytes on the wire, else raise `ValueError`."""
        if _is_small(self.data, most):
            return self
        size = len(self.block)
        if size > most:
            raise ValueError(
                f"The event {self.name!r} for group {self.group!r} has {size} bytes on the wire, "
                f"more than SSE_APP['MAX_EVENT_BYTES'] = {most}. Publish a reference; let pages "
                "fetch the data."
            )
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # The in-memory layer copies all values of a message, but an immutable value needs no copy.
        return self

    @property
    def slot(self) -> tuple[str, ...]:
        """A non-durable event replaces an earlier one in the same slot, for a reader that lags."""
        return self.group, self.name, self.key or ""

    def json(self) -> Any:
        """Return the data parsed as JSON; raises `ValueError` for invalid JSON."""
        return json.loads(self.data)

    @property
    def block(self) -> bytes:
        """The event on the wire without its `id:` line, encoded once for all streams."""
        # Like functools.cached_property, which takes a lock before Python 3.12.
        known: bytes | None = self.__dict__.get("_block")
        if known is None:
            known = self.__dict__["_block"] = encode_block(self.name, self.data)
        return known

    def encode(self, id: str = "", *, labelled: bool = False) -> bytes:
        """Return the event on the wire, with `id:` as its last line unless `id` is empty.

        `labelled`: with a line `group:`, and `streams:` if many get the event. Parsers ignore
        unknown fields.
        """
        block = self.block
        if labelled:
            readers = self.__dict__.get("_readers", 0)
            crowd = b"streams: %d\n" % readers if readers >= CROWD else b""
            block = b"group: %b\n%b%b" % (own_name(self.group).encode("ascii"), crowd, block)
        return with_id(block, id) if id else block

    def count_readers(self, readers: int) -> None:
        """Set how many streams of this process get the event; does not count for equality."""
        self.__dict__["_readers"] = readers

    def exclude(self, pages: Sequence[Sequence[str]]) -> Self:
        """Set `excluded` of a new event. Raises `TypeError` or `ValueError` if it is malformed."""
        found = tuple(Excluded(*page) for page in pages)
        if not all(isinstance(part, str) for page in found for part in page):
            raise TypeError(f"Malformed pages that an event excludes: {pages!r}.")
        if found:
            self.__dict__["excluded"] = found
        return self

    def exclude_stored(self, text: str) -> Self:
        """See `exclude()`; `text` is an `excluded_text`."""
        return self.exclude(json.loads(text)) if text else self

    @property
    def excluded_text(self) -> str:
        """`excluded` for a log; "" if no page is excluded."""
        return json.dumps(self.excluded) if self.excluded else ""

    @property
    def sent(self) -> float | None:
        """The Unix time at which the event was given to the channel layer; None if not known."""
        sent: float | None = self.__dict__.get("_sent")
        return sent

    def send_at(self, now: float) -> None:
        """Set `sent`, which does not count when events are compared."""
        self.__dict__["_sent"] = now

    def to_message(self) -> dict[str, Any]:
        """Return the channel-layer message, without fields that are None."""
        message: dict[str, Any] = {
            "type": MESSAGE_TYPE,
            "group": self.group,
            "event": self.name,
            "data": self.data,
        }
        if self.offset is not None:
            message["epoch"] = self.epoch
            message["offset"] = self.offset
        if self.mark:
            message["mark"] = self.mark
        if self.previous:
            message["previous"] = self.previous
        if self.key is not None:
            message["key"] = self.key
        if self.excluded:
            message["excluded"] = [list(page) for page in self.excluded]
        sent = self.sent
        if sent is not None:
            message["sent"] = sent
        return message

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Self:
        """Return the event of a channel-layer message.

        A message without an offset, as other code may send it, is a non-durable event. Raises
        `ValueError` or `TypeError` for a malformed message.
        """
        offset, epoch = message.get("offset"), message.get("epoch")
        mark, previous = message.get("mark", ""), message.get("previous", "")
        if offset is not None or epoch is not None:
            validate_position(epoch, offset)
        validate_mark(mark)
        validate_mark(previous)
        event = cls(
            group=message.get("group", ""),
            name=message.get("event", DEFAULT_NAME),
            data=to_text(message.get("data", "")),
            key=message.get("key"),
            durable=offset is not None,
            epoch=epoch,
            offset=offset,
            mark=mark,
            previous=previous,
        )
        sent = message.get("sent")
        if isinstance(sent, float):
            event.send_at(sent)
        if "excluded" in message:
            event.exclude(message["excluded"])
        return event
