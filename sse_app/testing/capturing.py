"""`capture_events()`: what is published within a block."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections
from django.test import TestCase

from ..eventlog import event_log
from ..protocol.events import Event, validate_name
from ..protocol.groups import validate_group
from ..signals import event_published


def capture_events(
    *groups: str, events: Iterable[str] = (), using: str | None = None, on_commit: bool = True
) -> Capture:
    """Return a context manager, sync and async, whose value is the list of what is published.

    In order; with `groups` or `events` only what is published to these or has these names. What
    was rolled back is not in the list, and what waits for a commit is not in it yet.

    The transaction that `TestCase` and pytest's `db` put around a test never commits. There the
    block's `on_commit` callbacks, yours too, run at the block's end, those on the database `using`
    (default: `"default"`) and then those on the log's own, so the list is complete after the
    block. `on_commit=False`: they do not. A transaction of the test's own is left alone, so commit
    it within the block.

    Raises `ValueError` for an invalid group or name.
    """
    return Capture(
        frozenset(map(validate_group, groups)),
        frozenset(map(validate_name, events)),
        using or DEFAULT_DB_ALIAS,
        on_commit,
    )


class Capture:
    """What `capture_events()` returns. Made by it alone."""

    def __init__(
        self, groups: frozenset[str], names: frozenset[str], using: str, on_commit: bool
    ) -> None:
        self.events: list[Event] = []
        self._groups = groups
        self._names = names
        self._using = using
        self._on_commit = on_commit
        self._callbacks = ExitStack()

    def __enter__(self) -> list[Event]:
        event_published.connect(self._collect)
        if self._on_commit:
            self._enter_callbacks()
        return self.events

    def __exit__(self, *raised: object) -> None:
        try:
            self._callbacks.close()
        finally:
            event_published.disconnect(self._collect)

    async def __aenter__(self) -> list[Event]:
        # Where Django's own async calls run, and with their connection.
        return await sync_to_async(self.__enter__)()

    async def __aexit__(self, *raised: object) -> None:
        await sync_to_async(self.__exit__)(*raised)

    def _enter_callbacks(self) -> None:
        # The innermost ends first: what it publishes then waits for the log's own commit.
        for alias in dict.fromkeys([event_log().alias or DEFAULT_DB_ALIAS, self._using]):
            blocks = connections[alias].atomic_blocks
            if blocks and getattr(blocks[0], "_from_testcase", False):
                capturing = TestCase.captureOnCommitCallbacks(using=alias, execute=True)
                self._callbacks.enter_context(capturing)

    def _collect(self, event: Event, **kwargs: Any) -> None:
        if (not self._groups or event.group in self._groups) and (
            not self._names or event.name in self._names
        ):
            self.events.append(event)
