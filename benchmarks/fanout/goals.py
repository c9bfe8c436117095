"""`Goal`: a figure that this app should reach, and the measured one. A miss fails no test."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from .cases import EVENTSTREAM, OWN, RAW_DAPHNE, RAW_UVICORN, SIGNED_IN, SQLITE, TEXTBOOK, Case
from .phases import Scale
from .results import Results

MOST, LEAST = "≤", "≥"
#: More than a bare stream's memory, in KiB.
ANONYMOUS_KIB, SIGNED_IN_KIB = 4.0, 10.0


@dataclass(frozen=True)
class Goal:
    """`value` is None if one of its figures was not measured; `note` names the missing figures."""

    title: str
    value: float | None
    limit: float
    sign: str = MOST
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.sign == MOST else self.value >= self.limit

    def row(self) -> str:
        """Return the line of the table."""
        said = {True: "yes", False: "no", None: "–"}[self.reached]
        value = "–" if self.value is None else _number(self.value)
        limit = f"{self.sign} {_number(self.limit)}"
        return f"| {self.title} | {limit} | {value} | {said} | {self.note} |"


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


class _Measured:
    """Medians by case, and figures that are made of two medians."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def of(self, case: Case, phase: str, name: str) -> float | None:
        return self._results.median(case.title, phase, name)

    def to(self, other: Case, phase: str, name: str) -> tuple[float | None, str]:
        """Return a figure as a multiple of another case's figure, and a text with both."""
        return _ratio(self.of(OWN, phase, name), self.of(other, phase, name))


def _ratio(ours: float | None, theirs: float | None) -> tuple[float | None, str]:
    if ours is None or theirs is None or not theirs or math.isinf(theirs):
        return None, ""
    return ours / theirs, f"{ours:,.2f} and {theirs:,.2f}"


def goals(results: Results, scale: Scale) -> list[Goal]:
    """Return all goals."""
    measured = _Measured(results)
    return [*_fanout(measured), *_long(measured), *_many(measured, scale), _sqlite(measured, scale)]


def _fanout(measured: _Measured) -> list[Goal]:
    def most(title: str, limit: float, other: Case, phase: str, name: str) -> Goal:
        value, note = measured.to(other, phase, name)
        return Goal(title, value, limit, MOST, note)

    def least(title: str, limit: float, other: Case) -> Goal:
        value, note = measured.to(other, "saturated", "rate")
        return Goal(title, value, limit, LEAST, note)

    cpu = ("paced", "micros")
    return [
        most("paced: CPU per delivery to raw ASGI on Daphne", 0.6, RAW_DAPHNE, *cpu),
        most("paced: to django-eventstream on Daphne", 1 / 4, EVENTSTREAM, *cpu),
        most("paced: to the textbook consumer", 1 / 20, TEXTBOOK, *cpu),
        least("saturated: deliveries/s to raw ASGI on Daphne", 4, RAW_DAPHNE),
        least("saturated: to raw ASGI on uvicorn", 1, RAW_UVICORN),
        Goal("saturated: lost %", measured.of(OWN, "saturated", "lost"), 0.1),
        Goal("saturated: p99 ms", measured.of(OWN, "saturated", "p99"), 1_000),
        most("saturated: CPU per delivery to raw", 0.3, RAW_DAPHNE, "saturated", "micros"),
        most("light: p99 to raw ASGI on Daphne", 1, RAW_DAPHNE, "light", "p99"),
    ]


def _long(measured: _Measured) -> list[Goal]:
    return [
        Goal("1,000 events/s: lost %", measured.of(OWN, "flood", "lost"), 0),
        Goal("1,000 events/s: pace kept %", measured.of(OWN, "flood", "kept"), 99, LEAST),
        Goal("1,000 events/s: p99 ms", measured.of(OWN, "flood", "p99"), 100),
        Goal("slow readers: MiB", measured.of(OWN, "slow", "grown"), 16),
        Goal("slow readers: the healthy lose %", measured.of(OWN, "slow", "lost"), 0),
        Goal("slow readers: p99 ms of the healthy", measured.of(OWN, "slow", "p99"), 50),
    ]


def _many(measured: _Measured, scale: Scale) -> list[Goal]:
    bare = measured.of(RAW_DAPHNE, "idle", "kib")
    wider, bare_wider = (
        _ratio(measured.of(case, "idle", "micros"), measured.of(case, "paced", "micros"))
        for case in (OWN, RAW_DAPHNE)
    )
    # Much of it is the processor's cache, which the streams of a bare server do not fit in either.
    beside = "" if bare_wider[0] is None else f"; raw ASGI on Daphne has {bare_wider[0]:.2f}"

    def more(case: Case) -> tuple[float | None, str]:
        ours = measured.of(case, "idle", "kib")
        if ours is None or bare is None:
            return None, ""
        return ours - bare, f"{ours:.1f} and {bare:.1f}"

    def kib(title: str, case: Case, limit: float) -> Goal:
        value, note = more(case)
        return Goal(f"idle: {title} above bare Daphne's", value, limit, note=note)

    return [
        kib("KiB of an anonymous stream", OWN, ANONYMOUS_KIB),
        kib("KiB of one signed in", SIGNED_IN, SIGNED_IN_KIB),
        Goal("idle: % of a core", measured.of(OWN, "idle", "busy"), 4),
        Goal("idle: % of a core, signed in", measured.of(SIGNED_IN, "idle", "busy"), 4),
        Goal("idle: seconds to reach all", measured.of(OWN, "idle", "reach"), 0.3),
        Goal("idle: seconds, signed in", measured.of(SIGNED_IN, "idle", "reach"), 0.3),
        Goal(
            f"idle: CPU per delivery at {scale.idle:,} to that at {scale.streams}",
            wider[0],
            1.5,
            note=wider[1] + beside,
        ),
        Goal("connects: seconds", measured.of(OWN, "connects", "seconds"), 3),
        Goal("connects: seconds, signed in", measured.of(SIGNED_IN, "connects", "seconds"), 6),
    ]


def _sqlite(measured: _Measured, scale: Scale) -> Goal:
    """Compare the SQLite log's cost, without that of publishing, to the memory log's cost."""
    title = "SQLite log: CPU per delivery less publishing, to the memory log"
    durable, memory = (measured.of(case, "paced", "micros") for case in (SQLITE, OWN))
    one, other = (measured.of(case, "publishing", "micros") for case in (SQLITE, OWN))
    if durable is None or memory is None or one is None or other is None:
        return Goal(title, None, 1.1)
    share = (one - other) / scale.streams
    note = (
        f"{durable:.2f} and {memory:.2f} µs; publishing an event to one stream costs {one:.0f} "
        f"and {other:.0f} µs, for each of {scale.streams} streams {share:.2f} more"
    )
    return Goal(title, (durable - share) / memory, 1.1, note=note)


HEAD: Final = "| goal | limit | measured | reached | of what |\n|---|---:|---:|---|---|"


def table(reached: list[Goal]) -> str:
    """Return the measured goals as Markdown."""
    return "\n".join([HEAD, *(goal.row() for goal in reached if goal.value is not None)])


def plain(reached: list[Goal]) -> list[dict[str, Any]]:
    """Return the goals as values for JSON."""
    return [
        {
            **asdict(goal),
            "value": goal.value if goal.value is not None and math.isfinite(goal.value) else None,
            "reached": goal.reached,
        }
        for goal in reached
    ]
