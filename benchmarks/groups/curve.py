"""The cost of an event by the number of groups, as a picture for the documentation."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any, Final

from ..fanout.results import Results
from .cases import BEFORE, OURS, RIVALS
from .own import PHASES
from .phase import Scale
from .tables import key

OTHERS: Final = "#7b8794"
MARKERS: Final = ("s", "^", "D", "v")
COLOURS: Final = ("#0b6e4f", "#2f80ed", "#8e44ad", "#d35400")


def draw(results: Results, scale: Scale, file: Path) -> bool:
    """Draw to `file`; return whether there was something to draw."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    (phase,) = (one for one in PHASES if one.name == "own")
    lines: dict[str, list[tuple[int, float]]] = {}
    for title in _styles():
        points = [
            (count, value)
            for count in scale.curve
            if (value := results.median(title, key(phase, f"{count:,}"), "micros"))
            and isfinite(value)
        ]
        if points:
            lines[title] = points
    if not lines:
        return False
    with pyplot.rc_context({"font.size": 12, "font.family": "DejaVu Sans"}):
        figure, axis = pyplot.subplots(figsize=(10, 5))
        for title, points in lines.items():
            axis.plot(*zip(*points, strict=True), label=title, **_styles()[title])
        _label(axis, scale)
        figure.tight_layout()
        figure.savefig(file, dpi=120)
        pyplot.close(figure)
    return True


def _label(axis: Any, scale: Scale) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(scale.curve, [f"{count:,}" for count in scale.curve])
    axis.minorticks_off()
    axis.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel("streams, each with a group of its own")
    axis.set_title(
        "CPU µs of an event to one of the streams (less is better, log scales)",
        loc="left",
        fontsize=13,
        pad=10,
    )
    axis.grid(axis="y", color="#e4e7eb")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=11)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _styles() -> dict[str, dict[str, Any]]:
    """Return how each line is drawn; the other checkout's lines are dotted."""
    styles: dict[str, dict[str, Any]] = {}
    for case, colour in zip(OURS, COLOURS, strict=True):
        ours = {"color": colour, "marker": "o"}
        styles[case.title] = {**ours, "linewidth": 2.5}
        styles[BEFORE + case.title] = {**ours, "linestyle": ":"}
    for case, marker in zip(RIVALS, MARKERS, strict=True):
        styles[case.title] = {"color": OTHERS, "linestyle": "--", "marker": marker}
    return styles
