"""A pytest plugin: which tests are quick, and which ones this machine can't run.

`make test` runs the tests that are marked `quick` and then the others that are not marked `slow`;
`make test-slow` runs those. Slow is a test that waits for real time to pass (a `retry`, a lease, a
report), and each further case of a test of which one case has real servers. A test without any
mark of `NOT_QUICK` is quick, so that each test is in exactly one of the three parts. All marks are
described in `pyproject.toml`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Final

import pytest

from .clients import NODE_MODULES
from .support.chromium import CHROMIUM

#: Each test with one of these marks is slow as well.
SLOW_TOO: Final = frozenset({"matrix", "project", "proxy"})
NOT_QUICK: Final = frozenset({"browser", "servers", "proxy", "project", "matrix", "slow"})
#: Each test with the fixture has the mark.
BY_FIXTURE: Final = {"browser": "browser", "servers": "make_server"}
#: Tests with these marks need a program: is it there, and where does it come from?
NEEDS: Final = {
    "browser": (CHROMIUM, "no Chromium (install `chromium`, or name one in CHROMIUM)"),
    "curl": (shutil.which("curl"), "no curl"),
    "npm": (NODE_MODULES.exists(), "no npm packages (`make install` fetches them)"),
}
#: Where everything must run, a test fails in place of being skipped.
STRICT: Final = "CI" in os.environ
MISSING: Final = {mark: why for mark, (found, why) in NEEDS.items() if not found and not STRICT}


def first_then_slow(values: Iterable[Any], quick: int = 1) -> list[Any]:
    """Return values for `parametrize`, of which all but the first `quick` are marked slow."""
    return [
        value if number < quick else pytest.param(value, marks=pytest.mark.slow)
        for number, value in enumerate(values)
    ]


def notice() -> str:
    """Return the line that says which tests are skipped and why; "" if none is."""
    told = "; ".join(f"those marked {mark!r}: {why}" for mark, why in MISSING.items())
    return f"Tests that are skipped: {told}." if told else ""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the notice, once: the processes of pytest-xdist have no terminal."""
    terminal: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if notice() and not hasattr(session.config, "workerinput"):
        terminal.write_line(notice())


@pytest.hookimpl(tryfirst=True)  # Before `-m` looks at the marks.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by fixtures what uses a browser or servers, then what is quick and what is skipped."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for mark, fixture in BY_FIXTURE.items():
            if fixture in fixtures:
                item.add_marker(mark)
        marks = {mark.name for mark in item.iter_markers()}
        if not marks & NOT_QUICK:
            item.add_marker("quick")
        if marks & SLOW_TOO:
            item.add_marker("slow")
        for mark in marks & MISSING.keys():
            item.add_marker(pytest.mark.skip(reason=MISSING[mark]))
        needed = [name for mark in item.iter_markers("packages") for name in mark.args]
        absent = [name for name in needed if find_spec(name) is None]
        if absent and not STRICT:
            why = f"no {', '.join(absent)} (`make test-slow` installs them)"
            item.add_marker(pytest.mark.skip(reason=why))


if __name__ == "__main__" and notice():
    print(notice())
