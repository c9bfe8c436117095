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
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

from ..fanout import goals
from ..fanout.__main__ import machine, prepare
from ..fanout.results import Results
from . import coming, own, publishing
from .cases import cases, missing
from .curve import draw
from .goals import goals as goals_of
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


@dataclass
class Measured:
    """What was measured so far, and the situations of each phase in their order."""

    results: Results = field(default_factory=Results)
    situations: dict[Phase, list[str]] = field(default_factory=dict)

    def measure(self, phase: Phase, stage: Stage, *, strict: bool = False) -> None:
        """Take the figures of a phase for a case.

        `strict`: raise what a server can't do, in place of a dash in the tables.
        """
        found = self.situations.setdefault(phase, [])
        began, said = time.monotonic(), ""
        try:
            for situation, figures in phase.measure(stage):
                self.results.add(stage.case, key(phase, situation), figures)
                if situation not in found:
                    found.append(situation)
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            if strict:
                raise
            said = f", failed: {error!r}"  # The others are measured all the same.
        took = time.monotonic() - began
        print(f"{stage.case.title}: {phase.name}, {took:.0f} s{said}", file=sys.stderr, flush=True)


def report(measured: Measured, scale: Scale) -> None:
    """Print the tables."""
    for case, needed in missing().items():
        print(f"Left out: {case.title}. It needs {needed}.")
    print("Medians; of several rounds the least and the most are in brackets.\n")
    print(tables(measured.results, measured.situations))
    print(f"\n### Goals\n\n{goals.table(goals_of(measured.results, scale))}")


def main() -> None:
    """Measure everything and print the tables, also if it is ended early."""
    given = arguments()
    prepare()
    scale, measured = QUICK if given.quick else Scale(), Measured()
    phases = [phase for phase in PHASES if not given.phase or phase.name in given.phase]
    wanted = cases(given.before is not None, given.only or ())
    began, ended = time.monotonic(), ""
    try:
        with Ground.prepared(wanted, scale.arriving, given.before) as ground:
            # The cases of a phase come one after the other.
            for _, phase, case in product(range(given.rounds), phases, wanted):
                if phase.fits(case):
                    measured.measure(phase, Stage(case, ground, scale))
    except (KeyboardInterrupt, SystemExit):
        ended = ", ended early"
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(machine())
    took = time.monotonic() - began
    print(f"{given.rounds} rounds in {took:.0f} s{ended}; load averages {load}.")
    report(measured, scale)
    if given.json:
        plain = {"machine": machine(), "rounds": given.rounds, "scale": vars(scale)}
        plain |= {"cases": measured.results.plain()}
        plain |= {"goals": goals.plain(goals_of(measured.results, scale))}
        given.json.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")
    if given.plot:
        draw(measured.results, scale, given.plot)


if __name__ == "__main__":
    main()
