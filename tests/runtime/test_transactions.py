"""Views beside `ATOMIC_REQUESTS`, which may be set for each database."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.handlers.base import BaseHandler
from django.db import connections

from sse_app.runtime.transactions import non_atomic


def test_a_view_is_atomic_on_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    @non_atomic
    async def view(request: Any) -> None:
        pass

    for alias in ("default", "other"):
        atomic = {"default": {"ATOMIC_REQUESTS": False}, alias: {"ATOMIC_REQUESTS": True}}
        monkeypatch.setattr(connections, "settings", atomic)
        # Of an async view that is atomic, Django raises an error.
        assert BaseHandler().make_view_atomic(view) is view
