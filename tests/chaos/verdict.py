"""What the clients received against what was acknowledged and what the log holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from .clients import Client
from .parts import Notes

#: The log as a fresh process reads it: for each group its events' offsets and data.
Log = Mapping[str, Sequence[tuple[int, str]]]

#: What must be 0, in the order of the table.
MUST_BE_ZERO: Final = (
    "lost",
    "missing",
    "repeated",
    "out of order",
    "rolled back, yet there",
    "not in the log",
    "resets",
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

    def add(self, what: str, who: str, items: Sequence[object]) -> None:
        """Count `items` as `what`; nothing happens if there are none."""
        if items:
            self.counts[what] += len(items)
            shown = ", ".join(map(str, items[:5])) + (" …" if len(items) > 5 else "")
            self.faults.append(f"{who}: {len(items)} {what}: {shown}")


def judge(log: Log, notes: Notes, clients: Iterable[Client]) -> Verdict:
    """Compare each client, group by group, with the log, and the log with the publishers' notes.

    lost: acknowledged minus received. missing: in the log and not received, acknowledged or not.
    repeated: received or logged more than once. out of order: received or logged after something
    that it comes before.
    """
    verdict = Verdict()
    for group, events in log.items():
        _judge_log(verdict, group, events, notes)
    verdict.add("lost", "the log", absent(log, notes))
    for client in clients:
        for group in client.groups:
            _judge_client(verdict, client, group, log.get(group, ()), notes)
        who = f"client {client.number}"
        verdict.add("resets", who, client.resets)
        verdict.add("refused", who, client.refused)
        verdict.add("hung", who, ["a stream"] * client.hung)
    return verdict


def absent(log: Log, notes: Notes) -> list[str]:
    """Return what was acknowledged and is not in the log."""
    logged = {data for events in log.values() for _, data in events}
    return sorted(set(notes.at) - logged)


def _judge_log(
    verdict: Verdict, group: str, events: Sequence[tuple[int, str]], notes: Notes
) -> None:
    who = f"the log of {group}"
    offsets, data = [offset for offset, _ in events], [data for _, data in events]
    verdict.add("missing", who, sorted(set(range(1, len(events) + 1)) - set(offsets)))
    verdict.add("repeated", who, _repeats(data))
    verdict.add("out of order", who, _disorder_of_publishers(data))
    verdict.add("rolled back, yet there", who, sorted(notes.rolled_back & set(data)))


def _judge_client(
    verdict: Verdict,
    client: Client,
    group: str,
    events: Sequence[tuple[int, str]],
    notes: Notes,
) -> None:
    who = f"client {client.number}, {group}"
    place = {data: offset for offset, data in events}
    got = client.received[group].data
    have = set(got)
    verdict.add("lost", who, sorted(notes.acknowledged.get(group, set()) - have))
    verdict.add("missing", who, [f"{n} {data}" for data, n in place.items() if data not in have])
    verdict.add("repeated", who, _repeats(got))
    verdict.add("not in the log", who, sorted(have - set(place)))
    known = [data for data in got if data in place]
    behind = [f"{b} after {a}" for a, b in pairwise(known) if place[b] < place[a]]
    verdict.add("out of order", who, behind or _disorder_of_publishers(got))


def _repeats(data: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [item for item in data if item in seen or seen.add(item)]  # type: ignore[func-returns-value]


def _disorder_of_publishers(data: Iterable[str]) -> list[str]:
    """Return what comes after a later event of the same publisher."""
    latest: dict[str, int] = {}
    behind = []
    for item in data:
        name, _, n = item.partition(":")
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
