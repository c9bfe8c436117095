"""What the clients received against what was acknowledged and what the log holds.

The judge knows the whole log of each time: as it was whenever it went back, and as it is in the
end. Between two resets a client must go through one of these histories step by step.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

from .clients import Client, Received, Reset
from .parts import Notes
from .stores import Fork, Log

#: What must be 0, in the order of the table.
MUST_BE_ZERO: Final = (
    "silent",
    "untold",
    "repeated",
    "disordered",
    "lost by the log",
    "missing",
    "rolled back, yet there",
    "not in the log",
    "needless resets",
    "refused",
    "hung",
    "errors logged",
    "stalled",
)
FAULTS_SHOWN: Final = 20


@dataclass
class Verdict:
    """Counts by name, and a sentence for each thing that is wrong."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MUST_BE_ZERO, 0))
    faults: list[str] = field(default_factory=list)
    #: How many acknowledged events were delivered to clients, how many of those that a client did
    #: not get it was told of, and of how many nobody could know.
    delivered: int = 0
    told: int = 0
    unknowable: int = 0
    #: The longest time in seconds until a client was told, from when it could be known.
    until_told: float = 0.0

    def add(self, what: str, who: str, items: Sequence[object]) -> None:
        """Count `items` as `what`; nothing happens if there are none."""
        if items:
            self.counts[what] += len(items)
            shown = ", ".join(map(str, items[:5])) + (" …" if len(items) > 5 else "")
            self.faults.append(f"{who}: {len(items)} {what}: {shown}")


def judge(log: Log, notes: Notes, clients: Sequence[Client], forks: Sequence[Fork] = ()) -> Verdict:
    """Compare each client, group by group, with the log, and the log with the publishers' notes.

    silent: acknowledged, and a client that never got the event was given a newer one without a
    reset before. untold: a step from one event to another that is the next one in no history, and
    without a reset between them. lost by the log: acknowledged, and absent although the log did not
    go back behind the event. repeated: received twice without a reset between, or logged twice.
    disordered: received or logged after something that it comes before.
    """
    verdict = Verdict()
    for group in sorted(set(log).union(*(fork.abandoned for fork in forks))):
        histories = [fork.abandoned.get(group, ()) for fork in forks] + [log.get(group, ())]
        for events in histories:
            _judge_log(verdict, group, events, notes)
        readers = [client for client in clients if group in client.groups]
        _Group(group, log, forks, notes, readers).judge(verdict)
    verdict.add("lost by the log", "the log", lost(log, notes, forks))
    for client in clients:
        who = f"client {client.number}"
        if not forks:
            verdict.add("needless resets", who, client.resets)
        verdict.add("refused", who, client.refused)
        verdict.add("hung", who, ["a stream"] * client.hung)
    return verdict


def lost(log: Log, notes: Notes, forks: Sequence[Fork]) -> list[str]:
    """Return what was acknowledged and is absent, although the log did not go back behind it."""
    logged = {data for events in log.values() for _, data in events}
    return sorted(data for data in set(notes.at) - logged if not _forks_over(data, notes, forks))


def _forks_over(data: str, notes: Notes, forks: Iterable[Fork]) -> list[Fork]:
    """Return the times when the log went back behind an event."""
    begun, at = notes.begun[data], notes.at[data]
    return [fork for fork in forks if begun < fork.at and at > fork.copied]


def _judge_log(
    verdict: Verdict, group: str, events: Sequence[tuple[int, str]], notes: Notes
) -> None:
    who = f"the log of {group}"
    offsets, data = [offset for offset, _ in events], [data for _, data in events]
    verdict.add("missing", who, sorted(set(range(1, len(events) + 1)) - set(offsets)))
    verdict.add("repeated", who, _repeats(data))
    verdict.add("disordered", who, _disorder_of_publishers(data))
    verdict.add("rolled back, yet there", who, sorted(notes.rolled_back & set(data)))


class _Reader:
    """What one client received in one group."""

    def __init__(self, client: Client, group: str, notes: Notes) -> None:
        self.name = f"client {client.number}, {group}"
        self.late = client.late
        self.opened = client.opened[0] if client.opened else None
        self.got = client.received[group]
        self.have = set(self.got.data)
        #: The latest beginning among the events up to each one.
        began = (notes.begun.get(data, 0.0) for data in self.got.data)
        self.newest = list(accumulate(began, max))

    def first_newer(self, at: float) -> int:
        """Return the index of the first event whose publishing began after `at`."""
        return bisect_right(self.newest, at)

    def runs(self) -> list[list[str]]:
        """Return what came between the resets."""
        bounds = [0, *(reset.index for reset in self.got.resets), len(self.got.data)]
        return [self.got.data[start:end] for start, end in pairwise(bounds)]


class _Group:
    """One group: its histories, and what its clients have to know."""

    def __init__(
        self, group: str, log: Log, forks: Sequence[Fork], notes: Notes, clients: Sequence[Client]
    ) -> None:
        self.forks, self.notes = forks, notes
        self.acknowledged = sorted(notes.acknowledged.get(group, set()))
        histories = [fork.abandoned.get(group, ()) for fork in forks] + [log.get(group, ())]
        self.histories = [[data for _, data in events] for events in histories]
        self.places = [
            {data: n for n, data in reversed([*enumerate(events)])} for events in self.histories
        ]
        self.steps = {step for events in self.histories for step in pairwise(events)}
        self.readers = [_Reader(client, group, notes) for client in clients]
        #: Whether a stream that was open when the log went back found out: the group then has a
        #: new epoch, and every client must be told.
        ends = [fork.begun for fork in forks[1:]] + [float("inf")] * bool(forks)
        self.found_out = {
            fork.at
            for fork, end in zip(forks, ends, strict=True)
            for reader in self.readers
            for reset in reader.got.resets
            if reset.opened < fork.begun < reset.at < end
        }

    def judge(self, verdict: Verdict) -> None:
        """Judge each client."""
        for reader in self.readers:
            self._judge_steps(verdict, reader)
            silent = [data for data in self.acknowledged if self._is_silent(verdict, reader, data)]
            verdict.add("silent", reader.name, silent)

    def _judge_steps(self, verdict: Verdict, reader: _Reader) -> None:
        known: set[str] = set().union(*self.places)
        verdict.add("not in the log", reader.name, sorted(reader.have - known))
        behind: list[str] = []
        for run in reader.runs():
            verdict.add("repeated", reader.name, _repeats(run))
            steps = [step for step in pairwise(run) if step not in self.steps]
            if not steps and not self._is_of_one_history(run):
                steps = [(run[0], run[-1])]
            verdict.add("untold", reader.name, [f"{b} after {a}" for a, b in steps])
            behind += _disorder_of_publishers(run)
            behind += [f"{b} after {a}" for a, b in steps if self._is_back(a, b)]
        verdict.add("disordered", reader.name, sorted(set(behind)))

    def _is_of_one_history(self, run: Sequence[str]) -> bool:
        """Whether the events came in this order in one history, with none between them."""
        starts = [places.get(run[0]) if run else 0 for places in self.places]
        return any(
            start is not None and history[start : start + len(run)] == run
            for start, history in zip(starts, self.histories, strict=True)
        )

    def _is_back(self, earlier: str, later: str) -> bool:
        """Whether each history that has both events has them the other way round.

        Histories may differ: events that the copy held without an offset are numbered again.
        """
        both = [places for places in self.places if earlier in places and later in places]
        return bool(both) and all(places[later] < places[earlier] for places in both)

    def _is_silent(self, verdict: Verdict, reader: _Reader, data: str) -> bool:
        begun, at = self.notes.begun[data], self.notes.at[data]
        is_gone = data not in self.places[-1]
        if data in reader.have:
            verdict.delivered += 1
            return False
        is_late = reader.late and not is_gone
        if reader.opened is None or (begun < reader.opened and not is_late):
            return False  # The client came later.
        newer = reader.first_newer(at)
        later = [reset for reset in reader.got.resets if reset.at > begun]
        over = _forks_over(data, self.notes, self.forks) if is_gone else []
        # An event of the history in which this one never was: the client could not know yet.
        could_not_know = over and self._is_step(reader.got, newer)
        told = [reset for reset in later if reset.index <= newer or could_not_know]
        if told:
            self._tell(verdict, told[0], at, over)
            return False
        if could_not_know and not any(fork.at in self.found_out for fork in over):
            verdict.unknowable += 1
            return False
        return True

    def _is_step(self, got: Received, index: int) -> bool:
        """Whether the event at `index` follows the one before it in a history."""
        return not 0 < index < len(got.data) or tuple(got.data[index - 1 : index + 1]) in self.steps

    def _tell(self, verdict: Verdict, reset: Reset, at: float, over: Sequence[Fork]) -> None:
        earlier = [fork.at for fork in self.forks if fork.begun < reset.at][-1:]
        knowable = max(at, reset.opened, *([fork.at for fork in over] or earlier))
        verdict.told += 1
        verdict.until_told = max(verdict.until_told, reset.at - knowable)


def _repeats(data: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [item for item in data if item in seen or seen.add(item)]  # type: ignore[func-returns-value]


def _disorder_of_publishers(data: Iterable[str]) -> list[str]:
    """Return what comes after a later event of the same publisher."""
    latest: dict[str, int] = {}
    behind = []
    for item in data:
        name, _, n = item.rpartition(":")
        if int(n) < latest.get(name, 0):
            behind.append(item)
        latest[name] = max(int(n), latest.get(name, 0))
    return behind


# --- how late ---


def latest_delivery(notes: Notes, clients: Iterable[Client]) -> float:
    """Return the longest time from an acknowledgement to a client that was connected by then.

    What was left to the sweep does not count: it came into the log only later.
    """
    latest = 0.0
    since = {data: at for data, at in notes.at.items() if data not in notes.left}
    for client in clients:
        for received in client.received.values():
            for data, at in zip(received.data, received.at, strict=True):
                acknowledged = since.get(data)
                if acknowledged is not None and client.connection_at(at)[0] <= acknowledged:
                    latest = max(latest, at - acknowledged)
    return latest


def checks_outlived(log: Log, clients: Iterable[Client], facts: Mapping[int, Path]) -> list[int]:
    """Count deliveries by how many readings of the heads had shown the event before.

    `facts` has the file of `ObservedLog` by the server's port. 0: the layer brought it, or the
    gap before an event that it brought. 1: the first check that saw it did. More: it came later.
    """
    readings = {
        port: [json.loads(line) for line in path.read_text().splitlines()]
        for port, path in facts.items()
    }
    counts: list[int] = [0, 0]
    for client in clients:
        for group in client.groups:
            offset_of = {data: offset for offset, data in log[group]}
            received = client.received[group]
            for data, at in zip(received.data, received.at, strict=True):
                opened, port = client.connection_at(at)
                outlived = sum(
                    opened < read_at < at and heads.get(group, 0) >= offset_of[data]
                    for read_at, heads in readings[port]
                )
                counts += [0] * (outlived + 1 - len(counts))
                counts[outlived] += 1
    return counts
