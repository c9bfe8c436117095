"""Why a stream did not get an event, or that it did: from its row and what the log says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

from ...protocol.cursors import START, Position

#: What a verdict's reason can be, and what it is called.
REASONS: Final = (
    *("unknown", "group", "taken", "filtered", "before", "reset", "revoked", "closed"),
    *("pruned", "epoch", "unpublished", "held", "lagging", "coming", "sent"),
)


@dataclass(frozen=True)
class Verdict:
    """One of `REASONS`, and the same in a sentence that says what to do."""

    reason: str
    text: str


@dataclass(frozen=True)
class Question:
    """Why did the stream of `row` not get the event at `position` of `group`?

    `row` is as `reports.row_of()` makes it, None if no process has such a stream. `name` is the
    event's, empty if the log no longer says or the asker may not know. `head` is the last event's
    position, `earliest` the one before the first event that the log has, as the log says now.
    """

    row: Mapping[str, Any] | None
    group: str
    position: Position
    head: Position
    earliest: Position
    name: str = ""

    @property
    def current(self) -> Position:
        """Where the stream stands in the group."""
        return self._read("positions")

    @property
    def start(self) -> Position:
        """Where it began."""
        return self._read("opened")

    @property
    def reset(self) -> tuple[Position, str] | None:
        """Where it was reset to that, and why, if it was."""
        found = (self.row or {}).get("resets", {}).get(self.group)
        return (to_position(found[0]), found[1]) if found else None

    @property
    def has_passed(self) -> bool:
        """Whether the stream stands at the event or after it."""
        return (
            self.current.epoch == self.position.epoch
            and self.current.offset >= self.position.offset
        )

    def _read(self, key: str) -> Position:
        return to_position((self.row or {}).get(key, {}).get(self.group, ""))


def to_position(text: str) -> Position:
    """Return the position that `"epoch-offset"` says; `START` for anything else."""
    epoch, found, offset = text.partition("-")
    return Position(epoch, int(offset)) if found and offset.isdecimal() else START


def explain(question: Question) -> Verdict:
    """Return why, the first reason that holds; "sent" if it got the event."""
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
                "No server process knows this stream: it ended long ago, or its process is gone. "
                "Find the page's present stream in the list, by its user or address."
            ),
        )
    if asked.group in row.get("taken", ()):
        return Verdict(
            "taken",
            _(
                "The group was taken from this stream, by disconnect() or because the policy no "
                "longer permits it to this user. Nothing of the group reaches it since then; the "
                "page was told by sse.reset. Permit the group again and reload the page."
            ),
        )
    if asked.group not in row["groups"]:
        return Verdict(
            "group",
            _(
                "This stream does not listen to the group; it listens to %(groups)s. Name the "
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
                "The group's log is another one now: its epoch is %(epoch)s. The event is of a log "
                "that was lost or replaced, so nobody can be given it any more; pages that stood "
                "there were told by sse.reset to load their state again."
            )
            % {"epoch": asked.head.epoch},
        )
    if asked.position.offset > asked.head.offset:
        return Verdict(
            "unpublished",
            _(
                "There is no such event yet: the group's last one has the offset %(offset)d. Did "
                "its transaction commit? Was it published with durable=False? Then it has no "
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
            "The stream asked only for events named %(names)s, and this one is %(name)s. Add "
            "event=%(name)s to the stream's URL."
        )
        % {"names": ", ".join(names), "name": asked.name},
    )


def _of_the_beginning(asked: Question) -> Verdict | None:
    position, start, reset = asked.position, asked.start, asked.reset
    if start.epoch == position.epoch and position.offset <= start.offset:
        return Verdict(
            "before",
            _(
                "It was published before the stream began, after offset %(offset)d: either the "
                "page came later, or it had the event already and said so when it came back. Give "
                "the page cursor() of before it was rendered, or ask for history with from=."
            )
            % {"offset": start.offset},
        )
    if reset and reset[0].epoch == position.epoch and position.offset <= reset[0].offset:
        return Verdict(
            "reset",
            _(
                "The stream could not be continued (%(why)s) and was reset to offset %(offset)d. "
                "The page was told by sse.reset, and has to load its state again."
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
                "The stream stands in a log that is no more and is about to be reset to the "
                "present one. The page is told by sse.reset, and has to load its state again."
            ),
        )
    if asked.position.offset <= asked.earliest.offset:
        return Verdict(
            "pruned",
            _(
                "It is no longer in the log, which keeps RETENTION_SECONDS and RETENTION_EVENTS, "
                "and the stream had not come to it. The page is told by sse.reset, reason trimmed, "
                "and has to load its state again. Keep more if this happens often."
            ),
        )
    return None


def _sent(asked: Question) -> Verdict:
    row = asked.row or {}
    text = _("It was sent: the stream stands at offset %(offset)d.") % {
        "offset": asked.current.offset
    }
    if row.get("events") and not asked.name:
        text = _(
            "The stream stands at offset %(offset)d: the event was sent, unless the stream's "
            "filter passed it over. The event's name is not known here: the log has it no longer, "
            "or you lack the permission to read events."
        ) % {"offset": asked.current.offset}
    waiting = row.get("queue", 0)
    if waiting:
        text += " " + _(
            "%(bytes)d bytes still wait for its client to take them, so it may not have arrived."
        ) % {"bytes": waiting}
    else:
        text += " " + _(
            "Does the page listen for its name, with addEventListener()? onmessage gets only "
            "events named message."
        )
    return Verdict("sent", text)


def _closed(reason: str) -> Verdict:
    if reason in {"auth", "expired", "unverified"}:
        return Verdict(
            "revoked",
            _(
                "The stream was ended before the event came, since its right to listen had ended "
                "(%(why)s): a logout, another password, a lost permission, disconnect(), or "
                "somebody ended it here. Sign in and load the page again."
            )
            % {"why": reason},
        )
    return Verdict(
        "closed",
        _(
            "The stream ended before the event came (%(why)s). A page that came back has another "
            "stream and got the event there: look for it in the list."
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
                "The stream is held while it is asked whether its user still may listen; then it "
                "goes on and loses nothing. If it stays so, the database does not answer: see the "
                "server's log."
            ),
        )
    if row.get("state") == "lagging":
        return Verdict(
            "lagging",
            _(
                "Its client does not take what is sent. It is %(behind)d events behind and gets "
                "them from the log as soon as it reads again; if nothing leaves for STALL_SECONDS, "
                "the stream is ended and the client comes back for them."
            )
            % {"behind": behind},
        )
    return Verdict(
        "coming",
        _(
            "It is on its way: the stream is %(behind)d events behind, by what its process said "
            "last. Ask again in a moment."
        )
        % {"behind": behind},
    )
