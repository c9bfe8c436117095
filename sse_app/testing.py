"""For the tests of projects that use the app."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.test import TestCase

from .eventlog import event_log
from .events import Event
from .signals import event_published


@contextmanager
def capture_events(using: str | None = None) -> Iterator[list[Event]]:
    """Collect what is published within the `with` block, in order.

    Inside a `TestCase`, whose transaction never commits, the block's `on_commit` callbacks on the
    database `using` (default: `"default"`) and then on the log's own run at its end, as they would
    after a commit; so the list is complete after the block. What was rolled back is not in it.
    """
    captured: list[Event] = []

    def collect(event: Event, **kwargs: Any) -> None:
        captured.append(event)

    # The innermost ends first: what it publishes then waits for the log's own commit.
    aliases = dict.fromkeys([event_log().alias or DEFAULT_DB_ALIAS, using or DEFAULT_DB_ALIAS])
    event_published.connect(collect, weak=False)
    try:
        with ExitStack() as stack:
            for alias in aliases:
                stack.enter_context(TestCase.captureOnCommitCallbacks(using=alias, execute=True))
            yield captured
    finally:
        event_published.disconnect(collect)
