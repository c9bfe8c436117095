"""`Results`: what was measured, one entry for each round in which it was."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from .cases import Case
from .phases import Figures


class Results:
    """Figures by case and phase. What was not measured is None, and a dash in a table."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))

    def add(self, case: Case, phase: str, figures: Figures) -> None:
        """Take one round's figures."""
        self._rounds[case.title][phase].append(figures)

    def titles(self, phase: str) -> Iterable[str]:
        """Return the cases that `phase` was measured for."""
        return [title for title, phases in self._rounds.items() if phases.get(phase)]

    def median(self, title: str, phase: str, name: str) -> float | None:
        """Return the median of the rounds."""
        values = self._values(title, phase, name)
        return statistics.median(values) if values else None

    def cell(self, title: str, phase: str, name: str, form: str) -> str:
        """Return the median and, of several rounds, the least and the most."""
        values = self._values(title, phase, name)
        if not values:
            return "–"
        shown = _shown(statistics.median(values), form)
        least, most = _shown(min(values), form), _shown(max(values), form)
        return shown if least == most else f"{shown} ({least}–{most})"

    def plain(self) -> dict[str, Any]:
        """Return everything as JSON can hold it: what never came is null."""
        return {
            title: {
                phase: [
                    {name: value if math.isfinite(value) else None for name, value in one.items()}
                    for one in rounds
                ]
                for phase, rounds in phases.items()
            }
            for title, phases in self._rounds.items()
        }

    def _values(self, title: str, phase: str, name: str) -> list[float]:
        if title not in self._rounds:
            return []
        return [one[name] for one in self._rounds[title].get(phase, []) if name in one]


def _shown(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else "never"
