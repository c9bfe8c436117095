"""Fixtures for pytest with pytest-django: `pytest_plugins = ["sse_app.testing.fixtures"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .clocks import MODULES, SseClock
from .live import LiveDaphne

__all__ = ["live_daphne", "sse_clock"]


@pytest.fixture
def live_daphne(transactional_db: None, tmp_path: Path) -> Iterator[LiveDaphne]:
    """A real daphne process that serves the project on the test's database; see `LiveDaphne`.

    Raises `ImproperlyConfigured` for an in-memory SQLite database.
    """
    server = LiveDaphne(tmp_path)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def sse_clock(monkeypatch: pytest.MonkeyPatch) -> SseClock:
    """The time of the streams, which changes only by `SseClock.advance()`."""
    clock = SseClock()
    for module in MODULES:
        monkeypatch.setattr(module, "time", clock)
    return clock
