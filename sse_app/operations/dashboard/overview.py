"""What the dashboard shows, out of what all server processes say: sums, rates, lists. Pure.

A rate is what grew from one report of a process to its next, so none is known before the second.
An event reaches each process that has readers of its group: of published events the most that
one of them saw counts, of delivered ones the sum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from typing import Any, Final, Self

RECENT_SECONDS: Final = 60.0
#: What is shown of the counts.
COUNTED: Final = frozenset(
    {"lagged", "superseded", "stalled", "heals", "resets", "delivered", "bytes"}
)
CHART_POINTS: Final = 120
MOST_GROUPS: Final = 100
MOST_STREAMS: Final = 200

Row = dict[str, Any]
Report = Mapping[str, Any]

#: How the list of streams can be sorted: what is compared, and whether the largest comes first.
SORTS: Final[Mapping[str, tuple[str, bool]]] = {
    "newest": ("opened_at", True),
    "oldest": ("opened_at", False),
    "queue": ("queue", True),
    "lag": ("lag", True),
    "bytes": ("bytes", True),
    "user": ("user", False),
}
#: Which streams are listed: all that are open, those in one state, or those that ended last.
STATES: Final = ("open", "live", "catching up", "lagging", "held", "ended")


@dataclass
class Growth:
    """What grew in one process between two reports: per second, and in all."""

    counts: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    delivered: dict[str, float] = field(default_factory=dict)

    @classmethod
    def between(cls, before: Report, now: Report) -> Self:
        """Return what grew; a count that is smaller than before began anew."""
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
    """Takes the reports of all processes each second and knows how fast their counts grow."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._growth: dict[str, Growth] = {}
        self._recent: deque[tuple[float, dict[str, float]]] = deque()
        self._now = (0.0, 0.0, 0.0)
        #: Time, events published and delivered per second, of the last two minutes.
        self.chart: deque[tuple[float, float, float]] = deque(maxlen=CHART_POINTS)

    def take(self, reports: Mapping[str, Report], now: float) -> None:
        """Take the latest report of each process; Unix time `now`."""
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
        """Return the sums over all processes; `recent` is what grew within the last minute."""
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
        """Return the groups that are listened to, those with the most subscribers first."""
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
    """Which streams are listed, in which order. Any text is possible: what is unknown is default.

    `text` is looked for in the user, the groups, the address and the id.
    """

    text: str = ""
    state: str = "open"
    sort: str = "newest"

    @classmethod
    def by(cls, query: Mapping[str, Any]) -> Self:
        """Return what the parameters `q`, `state` and `sort` of a URL ask for."""
        state, sort = query.get("state", ""), query.get("sort", "")
        return cls(
            str(query.get("q", "")).strip().lower()[:100],
            state if state in STATES else "open",
            sort if sort in SORTS else "newest",
        )

    def pick(self, opened: Sequence[Row], ended: Sequence[Row]) -> tuple[list[Row], int]:
        """Return the first `MOST_STREAMS` rows that are asked for, and how many there are."""
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
    """Return `COUNTED` out of `counts`; what is counted by reason, as one number."""
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
