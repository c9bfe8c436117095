"""What one event to 200 streams costs: `python -m benchmarks.fanout`.

Every server is a real `daphne` process on one core, the load client has another, and the rounds
are interleaved, so that a machine that gets slower in the middle does so for all. The servers
publish within their own process. What is compared is this app with the in-memory channel layer and
both the memory and the SQLite log, raw ASGI on Daphne, and the textbook Channels consumer.

Measured is each server at a pace of 150 events per second, at 10, at as many as it can (the pace
doubles until events are lost, take more than a second, or it brings no more), and at 200 of four
kilobytes while a quarter of the streams never reads. Where other processes want the cores too, as
the column "core missed" says, the times mean little, but the processor time per delivery still
does. The last column is how many times as good as raw ASGI a server is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from .publishers import GROUP
from .servers import ROOT, Servers, processor

STREAMS: Final = 200
MUTE: Final = 50
SIZE: Final = 200
BIG: Final = 4_000
ROUNDS: Final = 3
PACED, LIGHT, SLOW = 150, 10, 200
PACED_SECONDS, LIGHT_SECONDS, STEP_SECONDS, SLOW_SECONDS = 3.0, 3.0, 1.2, 8.0
#: Events a second that the search for the most begins with, by whether it keeps the pace.
FIRST_QUICK, FIRST_SLOW = 300, 25
TOO_LATE: Final = 1_000.0
DRAIN_SECONDS: Final = 4.0
TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")

Figures = dict[str, float]


@dataclass
class Case:
    """A server and what was measured, one entry for each round."""

    title: str
    application: str
    path: str = "/"
    log: str = "sse_app.eventlog.MemoryEventLog"
    rounds: list[dict[str, Figures]] = field(default_factory=list)

    def median(self, phase: str, name: str) -> float:
        """Return the median of the rounds."""
        return statistics.median(one[phase][name] for one in self.rounds)

    def range(self, phase: str, name: str, form: str) -> str:
        """Return the least and the most of the rounds."""
        figures = [one[phase][name] for one in self.rounds]
        return f"{form.format(min(figures))}–{form.format(max(figures))}"


def cases() -> list[Case]:
    """Return them in the order of the table; the second is what the others are compared with."""
    path = f"/events/?group={GROUP}"
    return [
        Case("this app, memory log", "ours", path),
        Case("raw ASGI", "raw"),
        Case("textbook consumer", "textbook"),
        Case("this app, SQLite log", "ours", path, "sse_app.eventlog.DatabaseEventLog"),
    ]


class Server:
    """A `daphne` process of one case on core 0."""

    def __init__(self, case: Case, found: Servers) -> None:
        self.case = case
        listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = listening.getsockname()[1]
        descriptor = str(listening.fileno())
        command = [sys.executable, "-m", "daphne", "--fd", descriptor, "--verbosity", "0"]
        self._process = subprocess.Popen(
            [*command, "--access-log", os.devnull, f"benchmarks.fanout_apps:{case.application}"],
            cwd=ROOT,
            env=found.environment("sqlite", redis=False, log=case.log),
            pass_fds=[listening.fileno()],
        )
        listening.close()
        os.sched_setaffinity(self._process.pid, {0})
        self.pace(100, 0.01, SIZE)  # Returns when it answers.

    def pace(self, rate: float, seconds: float, size: int) -> int:
        """Let it publish; return how many events it were."""
        query = f"rate={rate}&seconds={seconds}&size={size}"
        with urlopen(f"http://127.0.0.1:{self.port}/pace/?{query}", timeout=60) as answer:
            return int(json.load(answer)["published"])

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    @property
    def waited(self) -> float:
        """Seconds so far in which it could have run, but other processes had its core."""
        schedule = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()
        return int(schedule[1]) / 1e9

    @property
    def memory(self) -> int:
        """Bytes of memory that it has now."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * PAGE

    def stop(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def client(server: Server, mute: int) -> Iterator[subprocess.Popen[str]]:
    """Run a load client whose streams are open."""
    command = [sys.executable, "-m", "benchmarks.load_client", str(server.port), server.case.path]
    process = subprocess.Popen(
        [*command, "--readers", str(STREAMS - mute), "--mute", str(mute)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n", f"{server.case.title}: no streams"
        yield process
    finally:
        process.kill()
        process.wait()


def phase(server: Server, rate: float, seconds: float, size: int = SIZE, mute: int = 0) -> Figures:
    """Publish at one pace to new streams; return what it cost and what came."""
    with client(server, mute) as load:
        assert load.stdin
        assert load.stdout
        cpu, memory, waited = server.cpu, server.memory, server.waited
        published = server.pace(rate, seconds, size)
        settle(server)
        waited = server.waited - waited
        cpu, grown = server.cpu - cpu, server.memory - memory
        load.stdin.write("\n")
        load.stdin.flush()
        found: dict[str, Any] = json.loads(load.stdout.readline())
    expected = published * (STREAMS - mute)
    events = found["events"]
    return {
        "rate": events / max(found["seconds"], seconds),
        "kept": published / (rate * seconds) * 100,
        "waited": waited / max(waited + cpu, 0.001) * 100,
        "per_cpu": events / max(cpu, 1 / TICKS),
        "micros": cpu / max(events, 1) * 1e6,
        "per_read": events / max(found["reads"], 1),
        "bytes": found["bytes"] / max(events, 1),
        "p50": found["p50"] or float("inf"),
        "p99": found["p99"] or float("inf"),
        "lost": (expected - events) / expected * 100,
        "client": found["cpu"] * 100,
        "grown": grown / 2**20,
    }


def settle(server: Server) -> None:
    """Return when the server has nothing more to do, or after some seconds."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        before = server.cpu
        time.sleep(0.15)
        if server.cpu - before < 0.05:
            return


def saturate(server: Server, rate: float) -> Figures:
    """Double the pace until events are lost or late; return the figures of the most it kept."""
    best = phase(server, rate, STEP_SECONDS)
    while best["lost"] <= 0 and best["p99"] < TOO_LATE:
        more = phase(server, rate := rate * 2, STEP_SECONDS)
        kept = more["lost"] <= 0 and more["p99"] < TOO_LATE
        if not kept or more["rate"] < best["rate"] * 1.1:
            return more if kept and more["rate"] > best["rate"] else best
        best = more
    return best


def measure(case: Case, found: Servers) -> dict[str, Figures]:
    """Run one round of a case in a process of its own."""
    server = Server(case, found)
    try:
        light = phase(server, LIGHT, LIGHT_SECONDS)
        paced = phase(server, PACED, PACED_SECONDS)
        quick = paced["lost"] <= 0 and paced["p99"] < TOO_LATE
        most = saturate(server, FIRST_QUICK if quick else FIRST_SLOW)
        slow = phase(server, SLOW, SLOW_SECONDS, BIG, MUTE)
    finally:
        server.stop()
    return {"light": light, "paced": paced, "most": most, "slow": slow}


def table(measured: list[Case]) -> str:
    """Return the results as a Markdown table."""
    raw = measured[1]  # what the others are compared with
    columns = [
        ("paced: kept %", "paced", "kept", "{:.0f}"),
        ("CPU µs", "paced", "micros", "{:.1f}"),
        ("events per read", "paced", "per_read", "{:.2f}"),
        ("p50 ms", "paced", "p50", "{:.1f}"),
        ("p99 ms", "paced", "p99", "{:.1f}"),
        ("lost %", "paced", "lost", "{:.1f}"),
        ("light: p50 ms", "light", "p50", "{:.1f}"),
        ("p99 ms", "light", "p99", "{:.1f}"),
        ("most: deliveries/s", "most", "rate", "{:,.0f}"),
        ("per CPU second", "most", "per_cpu", "{:,.0f}"),
        ("CPU µs", "most", "micros", "{:.1f}"),
        ("events per read", "most", "per_read", "{:.2f}"),
        ("p99 ms", "most", "p99", "{:.0f}"),
        ("lost %", "most", "lost", "{:.1f}"),
        ("client CPU %", "most", "client", "{:.0f}"),
        ("slow readers: kept %", "slow", "kept", "{:.0f}"),
        ("MiB", "slow", "grown", "{:.0f}"),
        ("p99 ms", "slow", "p99", "{:.0f}"),
        ("lost %", "slow", "lost", "{:.1f}"),
        ("core missed %", "paced", "waited", "{:.0f}"),
        ("bytes per event", "paced", "bytes", "{:.0f}"),
    ]
    heads = " | ".join(column[0] for column in columns)
    lines = [
        f"| server | {heads} | times raw: paced CPU, most per CPU second |",
        "|---|" + "---:|" * (len(columns) + 1),
    ]
    for case in measured:
        shown = [form.format(case.median(of, name)) for _, of, name, form in columns]
        cheaper = raw.median("paced", "micros") / case.median("paced", "micros")
        faster = case.median("most", "per_cpu") / raw.median("most", "per_cpu")
        lines.append(f"| {case.title} | {' | '.join(shown)} | {cheaper:.2f}, {faster:.2f} |")
        ranges = [case.range(of, name, form) for _, of, name, form in columns]
        lines.append(f"| | {' | '.join(ranges)} | |")
    return "\n".join(lines)


def machine() -> str:
    """Return one paragraph about what this was measured on."""
    packages = ("Django", "channels", "daphne", "Twisted")
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}\n"
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sqlite", action="store_true", help="this app with the SQLite log too")
    given = parser.parse_args()
    # Ends by way of the code that stops the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measured = cases() if given.sqlite else cases()[:-1]
    began = time.monotonic()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sse-bench-"))
        found = Servers(Path(folder), "", "")
        found.migrate("sqlite")
        print(machine())
        for _ in range(given.rounds):
            for case in measured:
                case.rounds.append(measure(case, found))
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{STREAMS} streams, {given.rounds} rounds in {time.monotonic() - began:.0f} s")
    print(f"load averages at the end: {load}; ranges over the rounds are below the medians\n")
    print(table(measured))


if __name__ == "__main__":
    main()
