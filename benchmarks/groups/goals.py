"""The goals of this app with own groups. A missed goal fails no test."""

from __future__ import annotations

from ..fanout.cases import Case
from ..fanout.goals import LEAST, MOST, Goal
from ..fanout.results import Results
from .cases import EVENTSTREAM, OURS
from .coming import MISSED
from .phase import Scale

MEMORY, SQLITE, POSTGRESQL, REDIS = OURS
#: CPU of an event to one of many own groups, to that of django-eventstream in the same run.
TO_EVENTSTREAM = ((MEMORY, 0.84), (SQLITE, 1.7), (REDIS, 1.4))
#: Publishes a second of one publisher that waits for each.
SEQUENTIAL = ((MEMORY, 5_000), (REDIS, 2_500), (SQLITE, 2_000))


class _Measured:
    """Medians by case and situation."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def goal(self, case: Case, situation: str, name: str, limit: float, sign: str = MOST) -> Goal:
        """Return the goal of one figure; the title says which."""
        value = self._results.median(case.title, situation, name)
        return Goal(f"{situation}, {case.title}: {name}", value, limit, sign)

    def ratio(
        self, one: tuple[Case, str], other: tuple[Case, str], name: str, limit: float, sign: str
    ) -> Goal:
        """Return the goal of one figure to another."""
        found = [self._results.median(case.title, where, name) for case, where in (one, other)]
        value, note = None, ""
        if found[0] is not None and found[1]:
            value, note = found[0] / found[1], f"{found[0]:,.0f} and {found[1]:,.0f}"
        (case, where), (to, beside) = one, other
        of = f"{where}, {case.title}: {name} to that of " + (beside if case == to else to.title)
        return Goal(of, value, limit, sign, note)


def goals(results: Results, scale: Scale) -> list[Goal]:
    """Return all goals."""
    measured = _Measured(results)
    return [*_events(measured, scale), *_streams(measured, scale), *_publishers(measured)]


def _events(measured: _Measured, scale: Scale) -> list[Goal]:
    many = f"own: {scale.fast:,}"
    least, most = (f"own: {scale.curve[n]:,}" for n in (0, -1))
    fast = f"{many}, {scale.fast_pace:,.0f}/s"
    found = [
        measured.ratio((case, many), (EVENTSTREAM, many), "micros", limit, MOST)
        for case, limit in TO_EVENTSTREAM
    ]
    for case in OURS:
        found.append(measured.ratio((case, most), (case, least), "micros", 1.3, MOST))
        found.append(measured.goal(case, most, "idle", 2))
    for case in (MEMORY, SQLITE, REDIS):
        found.append(measured.goal(case, fast, "kept", 99.9, LEAST))
        found.append(measured.goal(case, fast, "p99", 20))
    return [*found, measured.goal(REDIS, "churn: 200/s", "p99", 50)]


def _streams(measured: _Measured, scale: Scale) -> list[Goal]:
    back = f"herd: {scale.returning:,} back, each {MISSED} behind"
    found = [
        measured.goal(MEMORY, f"idle: {scale.waiting:,}", "idle", 1),
        measured.goal(MEMORY, "arrive: one group", "millis", 0.5),
        measured.goal(SQLITE, "arrive: own groups, signed in", "millis", 1.2),
    ]
    for case in OURS:
        found.append(measured.goal(case, "arrive: own groups", "away", 0))
        found.append(measured.goal(case, f"herd: {scale.several:,} × 20", "away", 0))
    return [*found, *(measured.goal(case, back, "seconds", 6) for case in (SQLITE, REDIS))]


def _publishers(measured: _Measured) -> list[Goal]:
    found = [
        measured.goal(case, "sequential: own groups", "rate", limit, LEAST)
        for case, limit in SEQUENTIAL
    ]
    alone = (POSTGRESQL, "threads: INSERT and COMMIT alone")
    return [
        *found,
        measured.goal(POSTGRESQL, "threads: 32 to one group", "rate", 5_000, LEAST),
        measured.goal(POSTGRESQL, "threads: 32 to one group", "p99", 30),
        measured.ratio((POSTGRESQL, "threads: 1 to one group"), alone, "rate", 0.6, LEAST),
    ]
