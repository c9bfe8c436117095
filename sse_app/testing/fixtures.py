"""Fixtures for pytest with pytest-django: `pytest_plugins = ["sse_app.testing.fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .clocks import MODULES, SseClock
from .live import LiveDaphne


@pytest.fixture
def live_daphne(transactional_db: None, tmp_path: Path) -> Iterator[LiveDaphne]:
    """A real daphne process that serves the project on the test's database; see `LiveDaphne`.

    An in-memory SQLite database is an `ImproperlyConfigured` error.
    """
    server = LiveDaphne(tmp_path)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def sse_clock(monkeypatch: pytest.MonkeyPatch) -> SseClock:
    """The time of the streams, which stands still until the test lets it pass."""
    clock = SseClock()
    for module in MODULES:
        monkeypatch.setattr(module, "time", clock)
    return clock
