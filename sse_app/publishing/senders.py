"""The page that causes an event, which `publish(…, exclude=…)` leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..conf import namespace
from ..protocol.events import Excluded
from ..protocol.groups import scoped
from ..protocol.replies import stream_of, validate_tab

#: The header in which a page names its streams: `<connection>;tab=<tab>` for each of them, with
#: commas between them. The connection is that of `sse.open`.
HEADER: Final = "Sse-Connection"
#: How many streams of the header are read. Most pages have one.
MOST_STREAMS: Final = 20


def pages_of(exclude: object) -> tuple[Excluded, ...]:
    """Return the pages that `exclude` leaves out: see `publish()`.

    A page that did not name its stream, or named the stream of another user, is not left out.
    Raises `TypeError` unless `exclude` is a `Message`, a request or None.
    """
    if exclude is None:
        return ()
    stream, tab = getattr(exclude, "stream", None), getattr(exclude, "tab", None)
    if isinstance(stream, str) and isinstance(tab, str):  # A message.
        return (Excluded(stream, _key_of(exclude), tab),) if stream else ()
    headers = getattr(exclude, "headers", None)
    if headers is None:
        raise TypeError(
            f"exclude={exclude!r}: give the request that causes the event, or the message that a "
            "handler of @on() gets."
        )
    named = str(headers.get(HEADER, ""))
    if not named:
        return ()
    key = _key_of(exclude)
    return tuple(Excluded(stream, key, tab) for stream, tab in _named(named, key))


def _key_of(sender: Any) -> str:
    """Return the key of the sender's user, with the namespace before it; "" if anonymous."""
    user: Any = getattr(sender, "user", None)
    if user is None or not user.is_authenticated or user.pk is None:
        return ""
    return scoped(str(user.pk), namespace())


def _named(header: str, user: str) -> Iterator[tuple[str, str]]:
    """Yield the ids of the user's streams in the header, each with its tab, "" without one."""
    for item in header.split(",", MOST_STREAMS)[:MOST_STREAMS]:
        connection, _, option = item.strip().partition(";")
        name, _, tab = option.strip().partition("=")
        try:
            tab = validate_tab(tab) if name else ""
        except ValueError:
            continue
        if name in ("", "tab") and (stream := stream_of(connection, user)):
            yield stream, tab
