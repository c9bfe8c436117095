"""The results as Markdown, a table for each phase."""

from __future__ import annotations

from typing import Final

from .phases import FLOOD, LIGHT, PACED, SIZE, SLOW, Scale
from .results import Results

Column = tuple[str, str, str]

KEPT: Final[Column] = ("pace kept %", "kept", "{:.0f}")
MICROS: Final[Column] = ("CPU µs per delivery", "micros", "{:.2f}")
READS: Final[Column] = ("events per read", "per_read", "{:.2f}")
P50: Final[Column] = ("p50 ms", "p50", "{:.1f}")
P99: Final[Column] = ("p99 ms", "p99", "{:.1f}")
LOST: Final[Column] = ("lost %", "lost", "{:.2f}")
BYTES: Final[Column] = ("bytes per event", "bytes", "{:.0f}")
OPEN: Final[Column] = ("open", "open", "{:,.0f}")
#: How busy the client was, and for how much of the time other processes had the server's core.
LAST: Final[tuple[Column, ...]] = (
    ("client's core %", "client", "{:.0f}"),
    ("core missed %", "waited", "{:.0f}"),
)

COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "paced": (KEPT, MICROS, READS, P50, P99, LOST, BYTES, *LAST),
    "light": (P50, P99, MICROS, LOST, *LAST),
    "publishing": (("CPU µs per event", "micros", "{:.0f}"), P50, P99, *LAST),
    "saturated": (
        ("deliveries/s", "rate", "{:,.0f}"),
        ("per CPU second", "per_cpu", "{:,.0f}"),
        *(MICROS, READS, P99, LOST, *LAST),
    ),
    "flood": (KEPT, LOST, P50, P99, MICROS, *LAST),
    "slow": (KEPT, ("grew by MiB", "grown", "{:.1f}"), P50, P99, LOST, *LAST),
    "connects": (
        OPEN,
        ("seconds", "seconds", "{:.2f}"),
        ("connects/s", "per_second", "{:,.0f}"),
        ("CPU ms per stream", "millis", "{:.2f}"),
        *LAST,
    ),
    "idle": (
        OPEN,
        ("KiB per stream", "kib", "{:.1f}"),
        ("% of a core", "busy", "{:.1f}"),
        ("s to reach all", "reach", "{:.2f}"),
        *(MICROS, P99, LOST, *LAST),
    ),
}


def headings(scale: Scale) -> dict[str, str]:
    """Return what each phase is, in one line."""
    long, many = f"{scale.long_seconds:.0f} s", f"{scale.streams} streams"
    return {
        "paced": f"Paced: {PACED} events/s to {many}, events of {SIZE} bytes",
        "light": f"Light: {LIGHT} events/s to {many}",
        "publishing": f"Publishing: {PACED} events/s to one stream",
        "saturated": f"Saturated: as many events as possible to {many}",
        "flood": f"A thousand: {FLOOD:,} events/s to {many} for {long}",
        "slow": f"Slow readers: {scale.mute} of {scale.streams} never read,"
        f" {SLOW} events/s of 2 KB for {long}",
        "connects": f"Connects: {scale.connects:,} clients at once",
        "idle": f"Idle: {scale.idle:,} streams, {long} without an event, then one, then 5 a second",
    }


def table(results: Results, phase: str) -> str:
    """Return the table of a phase."""
    columns = COLUMNS[phase]
    lines = [
        "| server | " + " | ".join(name for name, _, _ in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for title in results.titles(phase):
        cells = [results.cell(title, phase, name, form) for _, name, form in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(results: Results, scale: Scale) -> str:
    """Return the tables of all phases that were measured."""
    return "\n\n".join(
        f"### {heading}\n\n{table(results, phase)}"
        for phase, heading in headings(scale).items()
        if results.titles(phase)
    )
