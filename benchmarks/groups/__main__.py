"""The command line: `python -m benchmarks.groups`, or `make bench-groups`.

The server is on core 0; the load client, Valkey, PostgreSQL and this process are on core 1. With
`--before` another checkout of this app is measured beside this one, in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from ..fanout.__main__ import machine, prepare
from ..fanout.cases import Case
from ..fanout.goals import plain as plain_goals
from ..fanout.goals import table as goal_table
from ..fanout.results import Results
from . import coming, own, publishing
from .cases import cases, missing
from .curve import draw
from .goals import goals
from .ground import Ground
from .phase import QUICK, Phase, Scale, Stage
from .tables import key, tables

PHASES: Final = (*own.PHASES, *coming.PHASES, *publishing.PHASES)


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.groups",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [phase.name for phase in PHASES]
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="short phases, fewer streams")
    parser.add_argument("--only", action="append", metavar="TITLE", help="a part of a title")
    parser.add_argument("--phase", action="append", choices=names, metavar="|".join(names))
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all rounds")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the cost by number of groups")
    return parser.parse_args()


def measure(
    stage: Stage, phase: Phase, results: Results, found: list[str], *, strict: bool
) -> None:
    """Take the figures of a phase for a case; add the situations to `found`."""
    began, said = time.monotonic(), ""
    try:
        for situation, figures in phase.measure(stage):
            results.add(stage.case, key(phase, situation), figures)
            if situation not in found:
                found.append(situation)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        if strict:
            raise
        said = f", failed: {error!r}"  # The others are measured all the same.
    took = time.monotonic() - began
    print(f"{stage.case.title}: {phase.name}, {took:.0f} s{said}", file=sys.stderr, flush=True)


def run(
    phases: list[Phase],
    wanted: list[Case],
    ground: Ground,
    scale: Scale,
    rounds: int,
    *,
    strict: bool = False,
) -> tuple[Results, dict[Phase, list[str]]]:
    """Measure everything; the cases of a phase come one after the other.

    `strict`: raise what a server can't do, in place of a dash in the tables.
    """
    results = Results()
    measured: dict[Phase, list[str]] = {phase: [] for phase in phases}
    for _ in range(rounds):
        for phase in phases:
            for case in wanted:
                if phase.fits(case):
                    stage = Stage(case, ground, scale)
                    measure(stage, phase, results, measured[phase], strict=strict)
    return results, measured


def main() -> None:
    """Measure everything and print the tables."""
    given = arguments()
    prepare()
    scale = QUICK if given.quick else Scale()
    phases = [phase for phase in PHASES if not given.phase or phase.name in given.phase]
    began = time.monotonic()
    wanted = cases(given.before is not None, given.only or ())
    with Ground.prepared(wanted, scale.arriving, given.before) as ground:
        results, measured = run(phases, wanted, ground, scale, given.rounds)
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(machine())
    for case, needed in missing().items():
        print(f"Left out: {case.title}. It needs {needed}.")
    print(f"{given.rounds} rounds in {time.monotonic() - began:.0f} s; load averages {load}.")
    print("Medians; of several rounds the least and the most are in brackets.\n")
    print(tables(results, measured))
    reached = goals(results, scale)
    print(f"\n### Goals\n\n{goal_table(reached)}")
    if given.json:
        plain = {"machine": machine(), "rounds": given.rounds, "scale": vars(scale)}
        plain |= {"cases": results.plain(), "goals": plain_goals(reached)}
        given.json.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")
    if given.plot:
        draw(results, scale, given.plot)


if __name__ == "__main__":
    main()
