"""The benchmark of own groups in small: all that it counts is there, whatever it costs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from benchmarks.fanout.cases import Case
from benchmarks.fanout.phases import Figures
from benchmarks.fanout.results import Results
from benchmarks.groups.__main__ import PHASES, run
from benchmarks.groups.cases import BEFORE, NCHAN, OURS, RIVALS, cases, nchan_is_here
from benchmarks.groups.ground import Ground
from benchmarks.groups.phase import Phase, Scale
from benchmarks.groups.tables import key, tables

from ..selection import first_then_slow
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
    threads=(1, 4),
    calls=64,
    pace=50,
    fast_pace=100,
    seconds=0.2,
    idle_seconds=0.1,
)
MEMORY, SQLITE, POSTGRESQL, REDIS = OURS

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Ground.prepared([SQLITE], SMALL.arriving) as ground:
        yield ground


@pytest.fixture(scope="module")
def whole_ground() -> Iterator[Ground]:
    """With PostgreSQL, and with this checkout as the other one."""
    with Ground.prepared(OURS, SMALL.arriving, before=ROOT) as ground:
        yield ground


def phase(name: str) -> Phase:
    (found,) = (phase for phase in PHASES if phase.name == name)
    return found


def measured(ground: Ground, name: str, case: Case) -> dict[str, Figures]:
    """What the phase found, by the situation. Fails if the phase failed half way."""
    results, situations = run([phase(name)], [case], ground, SMALL, rounds=1, strict=True)
    plain = results.plain()[case.title]
    return {one: plain[key(phase(name), one)][0] for one in situations[phase(name)]}


@pytest.mark.parametrize("case", first_then_slow([SQLITE, REDIS]), ids=["SQLite", "Redis"])
@pytest.mark.parametrize("name", first_then_slow(["own", "several", "churn"]))
def test_each_event_reaches_the_one_stream_that_has_its_group(
    ground: Ground, name: str, case: Case
) -> None:
    found = measured(ground, name, case)
    assert found
    for figures in found.values():
        assert figures["lost"] == 0
        assert figures["ended"] == 0
        assert figures["micros"] > 0


@pytest.mark.slow
def test_streams_come_and_go_beside_the_events(ground: Ground) -> None:
    beside = measured(ground, "churn", MEMORY)["200/s"]
    assert (beside["joined"], beside["busy"]) == (100, 0)


@pytest.mark.slow
def test_all_who_come_at_once_have_a_stream(ground: Ground) -> None:
    found = measured(ground, "arrive", SQLITE)
    assert list(found) == ["one group", "own groups", "own groups, signed in"]
    assert [figures["away"] for figures in found.values()] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("case", [MEMORY, POSTGRESQL], ids=["memory", "PostgreSQL"])
def test_all_who_come_back_get_what_they_missed(whole_ground: Ground, case: Case) -> None:
    found = measured(whole_ground, "herd", case)
    assert found["6 × 20"]["away"] == 0
    assert (found["20 back"]["away"], found["20 back"]["missing"]) == (0, 0)


def test_what_threads_publish_is_in_the_log(ground: Ground) -> None:
    """The publisher's process fails where the log does not have each event."""
    found = measured(ground, "threads", SQLITE)
    assert list(found) == [f"{n} to {target}" for n in (1, 4) for target in ("one group", "many")]


@pytest.mark.slow
@pytest.mark.parametrize("case", OURS, ids=lambda case: case.title)
def test_threads_publish_to_each_log(whole_ground: Ground, case: Case) -> None:
    assert measured(whole_ground, "threads", case)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sequential", "idle"])
def test_what_one_group_has_is_measured_too(ground: Ground, name: str) -> None:
    for figures in measured(ground, name, MEMORY).values():
        assert figures.get("lost", 0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", RIVALS, ids=lambda case: case.title)
def test_rivals_are_measured_by_the_same_means(ground: Ground, case: Case) -> None:
    if case is NCHAN and not nchan_is_here():
        pytest.skip("no nginx with nchan")
    for figures in measured(ground, "several", case).values():
        assert (figures["lost"], figures["ended"]) == (0, 0)


@pytest.mark.slow
def test_another_checkout_is_measured_beside_this_one(whole_ground: Ground) -> None:
    wanted = cases(before=True, titles=["memory"])
    assert [case.title for case in wanted] == [MEMORY.title, BEFORE + MEMORY.title]
    results, situations = run([phase("several")], wanted, whole_ground, SMALL, rounds=2)
    text = tables(results, situations)
    for case, (name, _, _) in itertools.product(wanted, phase("several").columns):
        assert results.median(case.title, key(phase("several"), "6 × 3"), name) is not None
        assert f"| {case.title} |" in text


@pytest.mark.slow
def test_a_checkout_runs_its_own_code_with_these_benchmarks(whole_ground: Ground) -> None:
    with whole_ground.fresh(replace(MEMORY, checkout="before")) as around:
        code = "import benchmarks, sse_app; print(benchmarks.__file__, sse_app.__file__)"
        command = [sys.executable, "-c", code]
        said = subprocess.check_output(command, cwd=around.root, text=True).split()
    assert all(file.startswith(os.fspath(around.root)) for file in said)


def test_what_was_not_measured_is_a_dash() -> None:
    results, own = Results(), phase("own")
    results.add(MEMORY, key(own, "10"), {"micros": 5.0})
    results.add(SQLITE, key(own, "20"), {"micros": 7.0})
    text = tables(results, {own: ["10", "20"]})
    assert f"| {MEMORY.title} | 5 | – |\n| {SQLITE.title} | – | 7 |" in text
