"""Why a stream did not get an event, or that it did, by the stream's row and the log. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

from ...protocol.cursors import START, Position

#: The reasons of verdicts.
REASONS: Final = (
    *("unknown", "group", "taken", "filtered", "before", "reset", "revoked", "closed"),
    *("pruned", "epoch", "unpublished", "held", "lagging", "coming", "sent"),
)


@dataclass(frozen=True)
class Verdict:
    """One of `REASONS`, and a text that explains it and says what to do."""

    reason: str
    text: str


@dataclass(frozen=True)
class Question:
    """Why did the stream of `row` not get the event at `position` of `group`?

    `row` is made by `reports.row_of()`, None if no process has such a stream. `name` is the name of
    the event, empty if the event is no longer in the log or the user may not know the name. `head`
    is the position of the log's last event now, `earliest` that before its first event.
    """

    row: Mapping[str, Any] | None
    group: str
    position: Position
    head: Position
    earliest: Position
    name: str = ""

    @property
    def current(self) -> Position:
        """The stream's position in the group."""
        return self._read("positions")

    @property
    def start(self) -> Position:
        """The position at which the stream began."""
        return self._read("opened")

    @property
    def reset(self) -> tuple[Position, str] | None:
        """The position of the last `sse.reset`, and its reason; None without one."""
        found = (self.row or {}).get("resets", {}).get(self.group)
        return (to_position(found[0]), found[1]) if found else None

    @property
    def has_passed(self) -> bool:
        """Whether the stream's position is at the event or after it."""
        return (
            self.current.epoch == self.position.epoch
            and self.current.offset >= self.position.offset
        )

    def _read(self, key: str) -> Position:
        return to_position((self.row or {}).get(key, {}).get(self.group, ""))


def to_position(text: str) -> Position:
    """Return the position of a text `"epoch-offset"`; `START` for any other text."""
    epoch, found, offset = text.partition("-")
    return Position(epoch, int(offset)) if found and offset.isdecimal() else START


def explain(question: Question) -> Verdict:
    """Return the first reason that is true; "sent" if the stream got the event."""
    for find in (
        _of_the_stream,
        _of_the_event,
        _of_the_filter,
        _of_the_beginning,
        _of_the_position,
    ):
        verdict = find(question)
        if verdict is not None:
            return verdict
    return _of_the_state(question)


def _of_the_stream(asked: Question) -> Verdict | None:
    row = asked.row
    if row is None:
        return Verdict(
            "unknown",
            _(
                "No server process knows this stream: it ended long ago, or its process has "
                "stopped. Find the page's current stream in the list, by its user or address."
            ),
        )
    if asked.group in row.get("taken", ()):
        return Verdict(
            "taken",
            _(
                "The group was removed from this stream, by disconnect() or because the policy no "
                "longer permits the group to this user. Since then the stream gets no events of "
                "the group; the page was informed by sse.reset. Permit the group again and reload "
                "the page."
            ),
        )
    if asked.group not in row["groups"]:
        return Verdict(
            "group",
            _(
                "This stream has no subscription to the group, only to %(groups)s. Name the "
                "group in the page's {%% sse_stream %%} tag or in the stream's URL."
            )
            % {"groups": ", ".join(row["groups"]) or "–"},
        )
    return None


def _of_the_event(asked: Question) -> Verdict | None:
    if asked.position.epoch != asked.head.epoch:
        return Verdict(
            "epoch",
            _(
                "The epoch of the group's log is now %(epoch)s. The event belongs to an earlier "
                "log, which was lost or replaced, so it can't be delivered any more. Pages with a "
                "position in that log got sse.reset, and have to load their state again."
            )
            % {"epoch": asked.head.epoch},
        )
    if asked.position.offset > asked.head.offset:
        return Verdict(
            "unpublished",
            _(
                "There is no such event yet: the group's last event has the offset %(offset)d. Did "
                "the transaction commit? An event that was published with durable=False has no "
                "offset and is not kept."
            )
            % {"offset": asked.head.offset},
        )
    return None


def _of_the_filter(asked: Question) -> Verdict | None:
    names = asked.row["events"] if asked.row else []
    if not names or not asked.name or asked.name in names:
        return None
    return Verdict(
        "filtered",
        _(
            "The stream gets only events named %(names)s, and the name of this one is %(name)s. "
            "Add event=%(name)s to the stream's URL."
        )
        % {"names": ", ".join(names), "name": asked.name},
    )


def _of_the_beginning(asked: Question) -> Verdict | None:
    position, start, reset = asked.position, asked.start, asked.reset
    if start.epoch == position.epoch and position.offset <= start.offset:
        return Verdict(
            "before",
            _(
                "The stream began after offset %(offset)d, and the event was published before. "
                "Either the page was opened later, or it already had the event when it "
                "reconnected. Call cursor() before the page is rendered and give the result to the "
                "page, or ask for history with from=."
            )
            % {"offset": start.offset},
        )
    if reset and reset[0].epoch == position.epoch and position.offset <= reset[0].offset:
        return Verdict(
            "reset",
            _(
                "The stream could not be continued (%(why)s) and was reset to offset %(offset)d. "
                "The page got sse.reset, and has to load its state again."
            )
            % {"why": reset[1], "offset": reset[0].offset},
        )
    return None


def _of_the_position(asked: Question) -> Verdict | None:
    row = asked.row or {}
    if asked.has_passed:
        return _sent(asked)
    if row.get("state") == "closed":
        return _closed(row.get("reason", ""))
    if asked.current.epoch not in (START.epoch, asked.position.epoch):
        return Verdict(
            "reset",
            _(
                "The stream's position belongs to a log that no longer exists. The stream is about "
                "to be reset to the current log: the page gets sse.reset, and has to load its "
                "state again."
            ),
        )
    if asked.position.offset <= asked.earliest.offset:
        return Verdict(
            "pruned",
            _(
                "The event was deleted from the log, which keeps RETENTION_SECONDS and "
                "RETENTION_EVENTS, before the stream had read it. The page gets sse.reset with the "
                "reason trimmed, and has to load its state again. If this happens often, keep more."
            ),
        )
    return None


def _sent(asked: Question) -> Verdict:
    row = asked.row or {}
    text = _("The event was sent: the stream's position is offset %(offset)d.") % {
        "offset": asked.current.offset
    }
    if row.get("events") and not asked.name:
        text = _(
            "The stream's position is offset %(offset)d: the event was sent, unless the stream's "
            "filter skipped it. The event's name is not known here: the event is no longer in the "
            "log, or you lack the permission to read events."
        ) % {"offset": asked.current.offset}
    waiting = row.get("queue", 0)
    if waiting:
        text += " " + _(
            "%(bytes)d bytes still wait until the client reads them, so the event may not have "
            "arrived."
        ) % {"bytes": waiting}
    else:
        text += " " + _(
            "Does the page listen for the event's name, with addEventListener()? onmessage gets "
            "only events named message."
        )
    return Verdict("sent", text)


def _closed(reason: str) -> Verdict:
    if reason in {"auth", "expired", "unverified"}:
        return Verdict(
            "revoked",
            _(
                "The stream was ended before the event was sent, because its right to listen had "
                "ended (%(why)s): by a logout, a new password, a lost permission, disconnect(), or "
                "a staff member in the dashboard. Sign in and load the page again."
            )
            % {"why": reason},
        )
    return Verdict(
        "closed",
        _(
            "The stream ended before the event was sent (%(why)s). A page that reconnected has "
            "another stream and got the event there: look for that stream in the list."
        )
        % {"why": reason},
    )


def _of_the_state(asked: Question) -> Verdict:
    row = asked.row or {}
    behind = max(0, asked.position.offset - asked.current.offset)
    if row.get("state") == "held":
        return Verdict(
            "held",
            _(
                "The stream is held while the permissions of its user are checked again; after "
                "that it continues and loses nothing. If it stays held, the database does not "
                "answer: see the server's log."
            ),
        )
    if row.get("state") == "lagging":
        return Verdict(
            "lagging",
            _(
                "The client does not read. The stream is %(behind)d events behind and gets them "
                "from the log as soon as the client reads again. If the client reads nothing for "
                "STALL_SECONDS, the stream is ended, and the client gets the events when it "
                "reconnects."
            )
            % {"behind": behind},
        )
    return Verdict(
        "coming",
        _(
            "The event is on its way: by the last report of its process, the stream is %(behind)d "
            "events behind. Ask again in a moment."
        )
        % {"behind": behind},
    )
