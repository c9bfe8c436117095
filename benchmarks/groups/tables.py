"""The results as Markdown: for each figure of a phase, a server in each line."""

from __future__ import annotations

from ..fanout.results import Results
from .phase import Column, Phase


def key(phase: Phase, situation: str) -> str:
    """Return what `Results` know a situation of a phase by."""
    return f"{phase.name}: {situation}"


def table(results: Results, phase: Phase, situations: list[str], column: Column) -> str:
    """Return the table of one figure of a phase; one line if it is the same everywhere."""
    name, title, form = column
    titles: dict[str, None] = {}
    for situation in situations:
        titles |= dict.fromkeys(results.titles(key(phase, situation)))
    cells = {
        case: [results.cell(case, key(phase, one), name, form) for one in situations]
        for case in titles
    }
    different = {cell for row in cells.values() for cell in row}
    if len(different) == 1:
        return f"{title}: {different.pop()} for all."
    lines = [
        f"| {title} | " + " | ".join(situations) + " |",
        "|---|" + "---:|" * len(situations),
    ]
    lines += [f"| {case} | " + " | ".join(row) + " |" for case, row in cells.items()]
    return "\n".join(lines)


def tables(results: Results, measured: dict[Phase, list[str]]) -> str:
    """Return the tables of all phases that were measured, with their situations."""
    return "\n\n".join(
        "\n\n".join(
            [f"### {phase.title}"]
            + [table(results, phase, situations, column) for column in phase.columns]
        )
        for phase, situations in measured.items()
        if situations
    )
