"""The command: which logs, how much chaos, and the table at the end."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from .parts import LOGS
from .run import Report, run
from .verdict import FAULTS_SHOWN, MUST_BE_ZERO
from .world import Plan

PLANNED: Final = (
    *("servers", "kills", "restarts", "freezes", "forks", "silences", "session_freezes"),
    *("clients", "publishers"),
    *("drop", "double", "late"),
)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--log", nargs="+", choices=LOGS, default=list(LOGS))
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    for name, default in (("kills", 100), ("restarts", 20), ("clients", 50), ("publishers", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--servers", type=int, default=3)
    return parser.parse_args(arguments)


def plans(given: argparse.Namespace) -> list[Plan]:
    """Return a plan for each log, and one more that drops half of the messages."""
    seed = random.randrange(10**6) if given.seed is None else given.seed
    sizes = {name: getattr(given, name) for name in ("clients", "publishers", "servers")}
    hurts = {
        "kills": given.kills,
        "restarts": given.restarts,
        "freezes": (given.restarts + 4) // 5,
        "publisher_kills": (given.kills + 1) // 2,
        "forks": (given.restarts + 1) // 2,
        "silences": (given.restarts + 4) // 5,
    }
    sessions = {"postgresql": hurts["silences"]}
    made = [
        Plan(log, seed, **sizes, **hurts, session_freezes=sessions.get(log, 0)) for log in given.log
    ]
    if "postgresql" in given.log:
        made.append(Plan.half_dropped(seed, **sizes, events=2000))
    return made


def table(reports: Sequence[Report]) -> str:
    """Return one column for each report; below it, what is wrong."""
    rows: list[tuple[str, list[object]]] = [
        ("", [report.plan.log for report in reports]),
        ("seed", [report.plan.seed for report in reports]),
        ("seconds", [round(report.seconds) for report in reports]),
    ]
    for name in PLANNED:
        rows.append((name.replace("_", " "), [asdict(r.plan)[name] for r in reports]))
    for name in dict.fromkeys(name for report in reports for name in report.figures):
        rows.append((name, [report.figures.get(name, "") for report in reports]))
    for name in MUST_BE_ZERO:
        rows.append((name, [report.verdict.counts[name] for report in reports]))
    lines = [f"{name:24}" + "".join(f"{_cell(cell):>12}" for cell in cells) for name, cells in rows]
    for report in reports:
        faults = report.verdict.faults
        lines += [f"{report.plan.log}: {fault}" for fault in faults[:FAULTS_SHOWN]]
        if len(faults) > FAULTS_SHOWN:
            lines.append(f"{report.plan.log}: and {len(faults) - FAULTS_SHOWN} more")
    return "\n".join(lines)


def _cell(cell: object) -> str:
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)


def main() -> int:
    """Run the plans one after the other; 0 if nothing was lost, repeated or out of order."""
    given = parse()
    # As ctrl-C does it: the run is cancelled, and ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    reports = []
    try:
        for plan in plans(given):
            print(plan, file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
                reports.append(asyncio.run(run(plan, Path(folder))))
    finally:
        if "postgresql" in given.log:
            from ..support import postgres  # Late: importing it starts the server.

            postgres.stop()
    print(table(reports))
    return 0 if all(report.good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
