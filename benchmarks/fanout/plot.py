"""The two figures that say most, as bars: an image for the documentation."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any, Final

from .results import Results

OURS: Final = "#0b6e4f"
OTHERS: Final = "#9aa5b1"
TEXT: Final = "#222222"
PANELS: Final = (
    ("saturated", "per_cpu", "Deliveries per CPU second, saturated", "more is better", "{:,.0f}"),
    ("paced", "micros", "CPU µs per delivery, paced", "less is better", "{:,.1f}"),
)


def plot(results: Results, file: Path) -> bool:
    """Draw to `file`; return whether there was something to draw."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [panel for panel in PANELS if results.titles(panel[0])]
    if not panels:
        return False
    rows = max(len(list(results.titles(panel[0]))) for panel in panels)
    with pyplot.rc_context({"font.size": 12, "font.family": "DejaVu Sans", "text.color": TEXT}):
        figure, axes = pyplot.subplots(
            len(panels), 1, figsize=(10, len(panels) * (0.36 * rows + 1.3)), squeeze=False
        )
        for axis, (phase, name, title, sense, form) in zip(axes.flat, panels, strict=True):
            found = {one: results.median(one, phase, name) for one in results.titles(phase)}
            # On a log scale is neither nothing nor what never came.
            bars = {one: value for one, value in found.items() if value and isfinite(value)}
            _bars(axis, bars, form, best_first=sense.startswith("more"))
            axis.set_title(f"{title} ({sense}, log scale)", loc="left", fontsize=13, pad=10)
        figure.tight_layout(h_pad=2)
        figure.savefig(file, dpi=120)
        pyplot.close(figure)
    return True


def _bars(axis: Any, bars: dict[str, float], form: str, *, best_first: bool) -> None:
    # The first is at the bottom.
    ordered = sorted(bars, key=lambda title: bars[title], reverse=not best_first)
    colours = [OURS if title.startswith("this app") else OTHERS for title in ordered]
    values = [bars[title] for title in ordered]
    drawn = axis.barh(ordered, values, color=colours, height=0.7)
    axis.bar_label(drawn, [form.format(value) for value in values], padding=5, fontsize=12)
    axis.set_xscale("log")
    # Bars of a log scale have no zero: begin below the least, leave room for the labels.
    axis.set_xlim(min(values) / 2, max(values) * 3)
    axis.xaxis.set_visible(False)
    axis.tick_params(axis="y", length=0, labelsize=12)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
