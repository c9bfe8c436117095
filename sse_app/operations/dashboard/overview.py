"""The sums, rates and lists of the dashboard, made from the reports of all processes. Pure.

A rate is the growth between two reports of a process, so it is known from the second report on.
An event reaches every process that has readers of its group. So the published events of a group
are the highest count of one process, and the delivered events are the sum over all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, Final, Self

RECENT_SECONDS: Final = 60.0
#: The counts that are shown.
COUNTED: Final = frozenset(
    {"lagged", "superseded", "stalled", "heals", "resets", "delivered", "bytes"}
)
CHART_POINTS: Final = 120
MOST_GROUPS: Final = 100
MOST_STREAMS: Final = 200

Row = dict[str, Any]
Report = Mapping[str, Any]

#: The orders of the list of streams: the key that is compared, and whether to sort descending.
SORTS: Final[Mapping[str, tuple[str, bool]]] = {
    "newest": ("opened_at", True),
    "oldest": ("opened_at", False),
    "queue": ("queue", True),
    "lag": ("lag", True),
    "bytes": ("bytes", True),
    "user": ("user", False),
}
#: The choices of streams: all open ones, those in one state, or those that ended last.
STATES: Final = ("open", "live", "catching up", "lagging", "held", "ended")


@dataclass
class Growth:
    """The growth of the counts of one process between two reports, in sum and per second."""

    counts: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    delivered: dict[str, float] = field(default_factory=dict)

    @classmethod
    def between(cls, before: Report, now: Report) -> Self:
        """Return the growth. A count that is smaller than before has started from 0 again."""
        seconds = now["at"] - before["at"]
        old, new = summed(before["counts"]), summed(now["counts"])
        grown = {name: _grown(count, old.get(name, 0)) for name, count in new.items()}
        made = cls(grown, {name: count / seconds for name, count in grown.items()})
        for group, current in now["groups"].items():
            earlier = before["groups"].get(group, {})
            for kind, rates in (("published", made.published), ("delivered", made.delivered)):
                rates[group] = _grown(current[kind], earlier.get(kind, 0)) / seconds
        return made


class Meter:
    """Computes rates from the reports of all processes, which it gets each second."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._growth: dict[str, Growth] = {}
        self._recent: deque[tuple[float, dict[str, float]]] = deque()
        self._now = (0.0, 0.0, 0.0)
        #: Time, events published and events delivered per second, for the last two minutes.
        self.chart: deque[tuple[float, float, float]] = deque(maxlen=CHART_POINTS)

    def take(self, reports: Mapping[str, Report], now: float) -> None:
        """Take the latest report of each process, by name; `now` is the Unix time."""
        for name in self._reports.keys() - reports.keys():
            del self._reports[name]
            self._growth.pop(name, None)
        for name, report in reports.items():
            before = self._reports.get(name)
            if before is not None and report["at"] > before["at"]:
                growth = self._growth[name] = Growth.between(before, report)
                self._recent.append((now, growth.counts))
            self._reports[name] = report
        while self._recent and self._recent[0][0] < now - RECENT_SECONDS:
            self._recent.popleft()
        published = sum(group["published"] for group in self.groups())
        self._now = now, round(published, 2), round(self._rate("delivered"), 2)
        if self._growth:
            self.chart.append(self._now)

    def totals(self) -> Row:
        """Return the sums over all processes; `recent` is the growth within the last minute."""
        now, published, delivered = self._now
        reports = self._reports.values()
        return {
            "at": now,
            "is_known": bool(self._growth),
            "open": _sum(report["open"] for report in reports),
            "waiting": _sum(report["waiting"] for report in reports),
            "counts": _sum(summed(report["counts"]) for report in reports),
            "recent": _sum(counts for _, counts in self._recent),
            "published": published,
            "delivered": delivered,
            "bytes": self._rate("bytes"),
        }

    def groups(self) -> list[Row]:
        """Return the groups that have subscribers, those with the most first."""
        found: dict[str, Row] = {}
        for name, report in self._reports.items():
            growth = self._growth.get(name, Growth())
            for group, current in report["groups"].items():
                row = found.setdefault(
                    group,
                    {"name": group, "subscribers": 0, "published": 0.0, "delivered": 0.0},
                )
                row["subscribers"] += current["subscribers"]
                row["published"] = max(row["published"], growth.published.get(group, 0.0))
                row["delivered"] += growth.delivered.get(group, 0.0)
        return sorted(found.values(), key=lambda row: (-row["subscribers"], row["name"]))

    def delivered(self, process: str) -> float:
        """Return how many events per second a process delivers."""
        growth = self._growth.get(process)
        return growth.rates.get("delivered", 0.0) if growth else 0.0

    def _rate(self, name: str) -> float:
        return sum(growth.rates.get(name, 0.0) for growth in self._growth.values())


@dataclass(frozen=True)
class Choice:
    """A choice of streams and their order.

    `text` is looked for in the user, the groups, the address and the id.
    """

    text: str = ""
    state: str = "open"
    sort: str = "newest"

    @classmethod
    def by(cls, query: Mapping[str, Any]) -> Self:
        """Return the choice by the URL's parameters `q`, `state` and `sort`.

        Parameters that are missing or unknown get their default.
        """
        state, sort = query.get("state", ""), query.get("sort", "")
        return cls(
            str(query.get("q", "")).strip().lower()[:100],
            state if state in STATES else "open",
            sort if sort in SORTS else "newest",
        )

    def pick(self, opened: Sequence[Row], ended: Sequence[Row]) -> tuple[list[Row], int]:
        """Return the first `MOST_STREAMS` matching rows, and the number of all of them."""
        rows: Iterable[Row] = ended if self.state == "ended" else opened
        if self.state not in {"open", "ended"}:
            rows = (row for row in rows if row["state"] == self.state)
        if self.text:
            rows = (row for row in rows if self._matches(row))
        found = list(rows)
        key, descending = SORTS[self.sort]
        if descending:
            first = nlargest(MOST_STREAMS, found, key=lambda row: (row[key], row["id"]))
        else:
            first = sorted(found, key=lambda row: (row[key], row["id"]))[:MOST_STREAMS]
        return first, len(found)

    def _matches(self, row: Row) -> bool:
        texts = (row["user"], row["address"], row["id"], *row["groups"])
        return any(self.text in text.lower() for text in texts)


def summed(counts: Mapping[str, float]) -> dict[str, float]:
    """Return the counts named in `COUNTED`; those by reason are summed up."""
    found = dict.fromkeys(COUNTED, 0.0)
    for name, count in counts.items():
        kind = name.partition(".")[0]
        if kind in COUNTED:
            found[kind] += count
    return found


def _grown(now: float, before: float) -> float:
    return now - before if now >= before else now


def _sum(mappings: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for mapping in mappings:
        for name, count in mapping.items():
            total[name] = total.get(name, 0) + count
    return total
