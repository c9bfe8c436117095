"""Which tests there are in each part, and what none of them measures."""

from __future__ import annotations

import re
import tomllib

import pytest

from .. import selection
from ..support.servers import ROOT

#: Figures of a machine: they belong into `benchmarks/`.
MEASURES = re.compile(r"VmRSS|smaps|getrusage|psutil|perf_counter|process_time|thread_time")
OPTIONS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]


class Item:
    """A test as pytest collects it."""

    def __init__(self, marks: set[str], fixtures: set[str], *packages: str) -> None:
        self.fixturenames = fixtures
        self.marks = [getattr(pytest.mark, mark).mark for mark in marks]
        if packages:
            self.marks.append(pytest.mark.packages(*packages).mark)

    def iter_markers(self, name: str = "") -> list[pytest.Mark]:
        return [mark for mark in self.marks if name in ("", mark.name)]

    def add_marker(self, mark: str | pytest.MarkDecorator) -> None:
        self.marks.append((getattr(pytest.mark, mark) if isinstance(mark, str) else mark).mark)

    @property
    def names(self) -> set[str]:
        return {mark.name for mark in self.marks}


def collected(marks: set[str], fixtures: set[str], *packages: str) -> set[str]:
    item = Item(marks, fixtures, *packages)
    selection.pytest_collection_modifyitems([item])  # type: ignore[list-item]
    return item.names


@pytest.mark.parametrize(
    ("marks", "fixtures", "found"),
    [
        (set(), {"valkey"}, {"quick"}),
        (set(), {"browser", "site"}, {"browser"}),
        (set(), {"make_server"}, {"servers"}),
        ({"proxy"}, {"make_server"}, {"servers", "proxy", "slow"}),
        ({"slow"}, set(), {"slow"}),
        ({"npm"}, set(), {"npm", "quick"}),
    ],
)
def test_a_test_is_quick_if_nothing_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, marks: set[str], fixtures: set[str], found: set[str]
) -> None:
    monkeypatch.setattr(selection, "MISSING", {})
    assert collected(marks, fixtures) == found


def test_what_this_machine_can_not_run_is_skipped_and_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "MISSING", {"browser": "no Chromium", "curl": "no curl"})
    assert collected(set(), {"browser"}) == {"browser", "skip"}
    assert collected({"curl"}, set()) == {"curl", "quick", "skip"}
    assert collected({"npm"}, set()) == {"npm", "quick"}
    assert selection.notice() == (
        "Tests that are skipped: those marked 'browser': no Chromium; those marked 'curl': no curl."
    )
    monkeypatch.setattr(selection, "MISSING", {})
    assert selection.notice() == ""


def test_what_needs_a_package_that_is_not_there_is_skipped_or_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "STRICT", False)
    assert "skip" in collected({"slow"}, set(), "django", "no_such_package")
    assert "skip" not in collected({"slow"}, set(), "django")
    monkeypatch.setattr(selection, "STRICT", True)
    assert "skip" not in collected({"slow"}, set(), "no_such_package")


def test_each_mark_is_described() -> None:
    described = {line.partition(":")[0] for line in OPTIONS["markers"]}
    assert described == {"quick", "packages"} | selection.NOT_QUICK | selection.NEEDS.keys()


def test_no_test_measures_time_or_the_memory_of_a_process() -> None:
    files = (ROOT / "tests").rglob("*.py")
    measuring = [
        file.name
        for file in files
        if "node_modules" not in file.parts
        and file.name != "test_selection.py"
        and MEASURES.search(file.read_text())
    ]
    assert measuring == []
