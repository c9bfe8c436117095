"""What the scripts and commands of the Redis log answer, as events and positions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from ..protocol.cursors import START, Position
from ..protocol.events import Event
from ..runtime.telemetry import log_fields
from .contract import Discontinuity, Outcome, Read, check_chain, has_events_after, number

#: The fields of a head. `marked` is the offset of the event with `mark`: a process of an older
#: version of the app counts `offset` alone, and the mark is then not known.
HEAD: Final = ("epoch", "offset", "mark", "marked")

logger = logging.getLogger("sse_app")


def numbered(
    calls: Mapping[str, list[Any]], answers: Mapping[str, Any], events: Sequence[Event]
) -> list[Event]:
    """Return the events with the positions that `APPEND` answered for each group's call."""
    added = Counter(event.group for event in events)
    heads = {
        group: Position(epoch.decode(), int(last) - added[group], previous.decode())
        for group, (epoch, last, previous, *_) in answers.items()
    }
    # The marks in the arguments of `APPEND`: after the script, the keys and their number.
    marks = {group: iter(call[call[1] + 10 :: 3]) for group, call in calls.items()}
    return number([(event, next(marks[event.group])) for event in events], heads)


def needs_start(after: Position, answer: Sequence[Any]) -> bool:
    """Return whether a read after `after` compares the mark of the whole log."""
    return not answer or (after.is_start and after.mark != "")


def read_since(group: str, after: Position, answer: Sequence[Any], start: Position) -> list[Event]:
    """See `EventLog.since()`; `start` is the position of a group without a log."""
    head = _head(answer[0], start) if answer else start
    if not has_events_after(after, head):
        return []
    if after.is_start:
        check_chain(after, start.mark, head)
    events: list[Event] = []
    for entry in answer[1]:
        event = _event(group, head.epoch, *entry)
        if event is None or event.offset != after.offset + 1 + len(events):
            break  # Events after a gap are not the next ones: the next read raises.
        events.append(event)
    if not events:
        raise Discontinuity("trimmed", head)
    if not after.is_start:
        check_chain(after, events[0].previous, head)
    return events


def outcomes(
    reads: Sequence[Read], answers: Sequence[Sequence[Any]], start: Position
) -> list[Outcome]:
    """Return what `read_since()` returns or raises for each read."""
    found: list[Outcome] = []
    for (group, after), answer in zip(reads, answers, strict=True):
        try:
            found.append(read_since(group, after, answer, start))
        except Discontinuity as lost:
            found.append(lost)
    return found


def _event(group: str, epoch: str, id: bytes, fields: Sequence[bytes]) -> Event | None:
    """Return the event of a stream entry; log an entry of another writer, and return None."""
    try:
        offset = int(id.partition(b"-")[0])
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        name, data = found[b"n"].decode(), found[b"d"].decode()
        marks = found.get(b"m", b"").decode()  # Empty in an entry of an older version of the app.
        event = Event(group=group, name=name, data=data)
        if b"x" in found:
            event.exclude_stored(found[b"x"].decode())
        return event.at(epoch, offset, marks[-4:], marks[:-4])
    except (KeyError, ValueError, TypeError) as error:
        logger.warning(
            "The entry %r in the log of group %s is not an event: %r",
            id,
            group,
            error,
            extra=log_fields(group=group, error=error),
        )
        return None


def lacks_head(answers: Iterable[Sequence[Any]]) -> bool:
    """Return whether a group has no log."""
    return any(None in answer[:2] for answer in answers)


def _head(answer: Sequence[Any], start: Position = START) -> Position:
    """Return the position that the fields `HEAD` give; `start` for a group without a log."""
    epoch, offset, mark, marked = answer
    if epoch is None or offset is None:
        return start
    return Position(epoch.decode(), int(offset), mark.decode() if marked == offset else "")


def positions(
    groups: Collection[str], answers: Sequence[Any], start: Position
) -> dict[str, Position]:
    """See `EventLog.heads()`."""
    return {group: _head(answer, start) for group, answer in zip(groups, answers, strict=True)}


def first_position(answer: Sequence[Any]) -> Position:
    """See `EventLog.earliest()`."""
    if not answer:
        return START
    head = _head(answer[0])
    if not answer[1]:
        return head
    return Position(head.epoch, int(answer[1][0][0].partition(b"-")[0]) - 1)
