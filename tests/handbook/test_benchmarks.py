"""The benchmark of own groups in small: all that it counts is there, whatever it costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from benchmarks.fanout.results import Results
from benchmarks.groups.__main__ import PHASES, Measured
from benchmarks.groups.cases import BEFORE, OURS, cases
from benchmarks.groups.goals import goals
from benchmarks.groups.ground import Ground
from benchmarks.groups.phase import Phase, Scale, Stage
from benchmarks.groups.tables import key, tables

from ..support.servers import ROOT

SMALL = Scale(
    curve=(10, 20),
    fast=20,
    several=6,
    groups=(3,),
    staying=10,
    arriving=20,
    returning=20,
    waiting=20,
    threads=(1, 32),
    calls=64,
    pace=50,
    fast_pace=100,
    seconds=0.2,
    idle_seconds=0.1,
    beat_seconds=0.1,
)
MEMORY, SQLITE, POSTGRESQL, REDIS = OURS

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Ground.prepared([SQLITE], SMALL.arriving) as ground:
        yield ground


@pytest.fixture(scope="module")
def everything() -> Measured:
    """All phases of all servers; whatever a server can't do is raised."""
    wanted, measured = cases(before=False), Measured()
    with Ground.prepared(wanted, SMALL.arriving) as ground:
        for one, case in product(PHASES, wanted):
            if one.fits(case):
                measured.measure(one, Stage(case, ground, SMALL), strict=True)
    return measured


def phase(name: str) -> Phase:
    (found,) = (phase for phase in PHASES if phase.name == name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own", "threads"])
def test_a_phase_finds_each_event(ground: Ground, name: str) -> None:
    """The process of the threads fails where the log does not have each event."""
    one, measured = phase(name), Measured()
    measured.measure(one, Stage(SQLITE, ground, SMALL), strict=True)
    assert measured.situations[one]
    for situation in measured.situations[one]:
        assert measured.results.median(SQLITE.title, key(one, situation), "p99") is not None
        assert measured.results.median(SQLITE.title, key(one, situation), "lost") in {0, None}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_server_loses_an_event_or_sends_a_client_away(everything: Measured) -> None:
    plain = everything.results.plain()
    assert plain.keys() == {case.title for case in cases(before=False)}
    for situations in plain.values():
        for situation, rounds in situations.items():
            for name in ("lost", "ended", "away", "busy", "missing"):
                assert rounds[0].get(name, 0) == 0, (situation, name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_goal_is_of_a_figure_that_is_measured(everything: Measured) -> None:
    """A goal of a situation that no phase has would be a dash for ever."""
    assert not [one.title for one in goals(everything.results, SMALL) if one.value is None]


@pytest.mark.slow
def test_another_checkout_is_measured_beside_this_one(tmp_path: Path) -> None:
    for part in ("manage.py", "project", "sse_app", "templates"):
        (tmp_path / part).symlink_to(ROOT / part)
    wanted, measured = cases(before=True, titles=["memory"]), Measured()
    assert [case.title for case in wanted] == [MEMORY.title, BEFORE + MEMORY.title]
    with Ground.prepared(wanted, 1, before=tmp_path) as ground:
        for case in wanted:
            measured.measure(phase("churn"), Stage(case, ground, SMALL), strict=True)
        with ground.fresh(wanted[1]) as around:
            assert os.readlink(around.root / "sse_app") == os.fspath(tmp_path / "sse_app")
            code = "import benchmarks, sse_app; print(benchmarks.__file__, sse_app.__file__)"
            command = [sys.executable, "-c", code]
            said = subprocess.check_output(command, cwd=around.root, text=True).split()
    assert all(file.startswith(os.fspath(around.root)) for file in said)
    text = tables(measured.results, measured.situations)
    assert all(f"| {case.title} |" in text for case in wanted)


def test_what_was_not_measured_is_a_dash() -> None:
    results, own = Results(), phase("own")
    results.add(MEMORY, key(own, "10"), {"micros": 5.0})
    results.add(SQLITE, key(own, "20"), {"micros": 7.0})
    text = tables(results, {own: ["10", "20"]})
    assert f"| {MEMORY.title} | 5 | – |\n| {SQLITE.title} | – | 7 |" in text


def test_a_figure_that_all_have_is_one_line() -> None:
    results, own = Results(), phase("own")
    for case in (MEMORY, SQLITE):
        results.add(case, key(own, "10"), {"micros": 5.0, "lost": 0.0})
    assert "lost %: 0.00 for all." in tables(results, {own: ["10"]})
    results.add(REDIS, key(own, "10"), {"lost": 1.0})
    assert f"| {REDIS.title} | 1.00 |" in tables(results, {own: ["10"]})
