"""What a test knows of each group's log without asking it: everything that was committed, in order.

A log is compared with it after every change, and what a client saw at the end of every step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from sse_app.eventlog import EventLog
from sse_app.eventlog.contract import HEAD_RETENTION_FACTOR
from sse_app.protocol.cursors import START, Position

from .simulation import Clock


def plain(position: Position) -> Position:
    """Return the position without its mark: the model names an event by its epoch and offset."""
    return position._replace(mark="")


@dataclass(frozen=True)
class Entry:
    """One durable event; its data occurs once in a whole run."""

    group: str
    name: str
    data: str
    at: float


@dataclass
class GroupLedger:
    """One group: its committed events by the epoch under which they were to be had."""

    entries: list[Entry] = field(default_factory=list)
    #: Committed, but not numbered yet; with the order in which the rows were inserted.
    waiting: list[tuple[int, Entry]] = field(default_factory=list)
    epoch: str | None = None
    epochs: dict[str, list[Entry]] = field(default_factory=dict)
    #: How often the group was so idle that it was forgotten, now and when each epoch began.
    forgotten: int = 0
    forgotten_before: dict[str, int] = field(default_factory=dict)
    #: The first offset that is there, and the first that has to be there.
    first: int = 1
    due: int = 1
    changed_at: float = 0.0
    #: Is it a copy that was put back, and nothing new since? Then it is older than it seems to be.
    put_back: bool = False

    @property
    def head(self) -> Position:
        return START if self.epoch is None else Position(self.epoch, len(self.entries))

    def append(self, entries: Iterable[Entry], now: float) -> None:
        """Number what waits, by the order of its rows, then `entries`."""
        self.entries += [entry for _, entry in sorted(self.waiting, key=lambda row: row[0])]
        self.waiting.clear()
        self.entries += entries
        self.changed_at = now
        self.put_back = False

    def renew(self) -> None:
        """Go on under a new epoch, which `learn()` will see."""
        if self.epoch is not None:
            self.entries = list(self.entries)
            self.epoch = None

    def lose(self) -> None:
        """Note that the log is gone, and that there was one.

        A page that saw the group empty, and nothing of the log that is gone, takes the next log
        for what follows: its position says nothing about the log it is a position in.
        """
        self.entries, self.epoch, self.first, self.due = [], None, 1, 1
        self.waiting = []

    def forget(self) -> None:
        """Note that the group was forgotten; a page that saw it empty before has to be told."""
        self.forgotten += not self.put_back
        self.lose()

    def may_trim(self, keep: int, before: float) -> None:
        """Note that what is beyond retention may go."""
        young = (n for n, entry in enumerate(self.entries, 1) if entry.at >= before)
        by_age = next(young, len(self.entries) + 1)
        self.due = max(self.due, len(self.entries) - keep + 1, by_age)

    def learn(self, head: Position, earliest: Position) -> None:
        """Compare with what the log says; a new epoch becomes known."""
        head = plain(head)
        if head == START:
            assert not self.entries, "the log forgot a group"
            return
        if self.epoch is None:
            assert head.epoch not in self.epochs, "an epoch was given twice"
            self.epoch = head.epoch
            self.epochs[head.epoch] = self.entries
            self.forgotten_before[head.epoch] = self.forgotten
        assert head == self.head
        assert earliest.epoch == head.epoch
        self.first = earliest.offset + 1
        assert self.first <= self.due, "the log lost what is within retention"

    def knows(self, place: Position) -> bool:
        """Whether the log ever stood there."""
        if place == START:
            return True
        return 0 <= place.offset <= len(self.epochs.get(place.epoch, ()))

    def continues(self, place: Position) -> bool:
        """Whether the log can be read on from `place` as it is now."""
        if place != START and place.epoch != self.epoch:
            return False
        return self.first - 1 <= place.offset <= len(self.entries)


class Ledger:
    """All groups."""

    def __init__(self, groups: Collection[str], keep: int, age: float, clock: Clock) -> None:
        self.groups = {group: GroupLedger() for group in groups}
        self.keep = keep
        self.age = age
        #: The position of a group without a log; its mark is that of the whole log.
        self.start = START
        #: Events that are not durable, once they have left.
        self.passing: set[str] = set()
        #: Events that a copy has as not numbered: when it is put back, they are published again.
        self.again: set[str] = set()
        #: What the layer delivered, in that order.
        self.delivered: list[str] = []
        self.clock = clock
        self._made = 0
        #: Of each event's data.
        self.group_of: dict[str, str] = {}

    def __getitem__(self, group: str) -> GroupLedger:
        return self.groups[group]

    def make(self, group: str, name: str) -> Entry:
        """Return a new entry, not in the log yet."""
        self._made += 1
        self.group_of[str(self._made)] = group
        return Entry(group, name, str(self._made), self.clock.now)

    def append(self, entries: Collection[Entry]) -> None:
        """Note one append to the log."""
        for group in {entry.group for entry in entries}:
            of_group = [entry for entry in entries if entry.group == group]
            self[group].append(of_group, self.clock.now)
            self[group].may_trim(self.keep, self.clock.now - self.age)

    def number(self, groups: Collection[str]) -> None:
        """Note one numbering pass."""
        for group in groups:
            if self[group].waiting:
                self[group].append([], self.clock.now)

    def prune(self, log: EventLog) -> None:
        """Prune `log`; what it forgets it must be allowed to forget."""
        log.prune()
        heads = log.heads(list(self.groups))
        for group, ledger in self.groups.items():
            ledger.may_trim(self.keep, self.clock.now - self.age)
            if heads[group].is_start and ledger.epoch is not None:
                idle = self.clock.now - ledger.changed_at
                assert idle > self.age * HEAD_RETENTION_FACTOR, "a head went too early"
                assert ledger.due > len(ledger.entries)
                assert not ledger.waiting
                ledger.forget()

    def learn_start(self, log: EventLog) -> None:
        """Take over the mark of the log, which may have vanished."""
        (self.start,) = log.heads(["no.such.group"]).values()

    def learn(self, log: EventLog) -> None:
        """Compare every group with the log."""
        self.learn_start(log)
        for group, head in log.heads(list(self.groups)).items():
            self[group].learn(head, log.earliest(group))

    def compare(self, log: EventLog) -> None:
        """Compare every event that is still there."""
        for group, ledger in self.groups.items():
            run = log.since(group, log.earliest(group), 10_000)
            kept = ledger.entries[ledger.first - 1 :]
            assert [(e.name, e.data) for e in run] == [(e.name, e.data) for e in kept]

    def copy(self) -> dict[str, GroupLedger]:
        """Return how the groups stand, for `restore()`."""
        return deepcopy(self.groups)

    def restore(self, copy: dict[str, GroupLedger]) -> None:
        """Put the logs back to where they stood; what came since is lost, and known to be."""
        for group, then in deepcopy(copy).items():
            now = self.groups[group]
            self.again.update(entry.data for _, entry in then.waiting)
            if then.epoch is None:
                waiting = then.waiting
                now.lose()
                now.waiting = waiting
                continue
            now.entries, now.waiting, now.epoch = then.entries, then.waiting, then.epoch
            now.first, now.due, now.changed_at = then.first, then.due, then.changed_at
            now.put_back = True
