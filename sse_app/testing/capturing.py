"""`capture_events()`: the events that are published within a block."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections
from django.test import TestCase

from ..conf import namespace
from ..eventlog import event_log
from ..protocol.events import Event, validate_name
from ..protocol.groups import Group, full_name
from ..signals import event_published


def capture_events(
    *groups: Group, events: Iterable[str] = (), using: str | None = None, on_commit: bool = True
) -> Capture:
    """Return a context manager, sync and async, whose value is the list of published events.

    The list is in order. With `groups` or `events` it has only events of these groups or with these
    names. Events that were rolled back are not in the list, nor those that wait for a commit.

    The transaction that `TestCase` and pytest's `db` put around a test never commits. In such a
    test, all `on_commit` callbacks of the block run at its end: first those on the database `using`
    (default: `"default"`), then those on the log's database. So the list is complete after the
    block. With `on_commit=False` they do not run. A transaction that the test itself opens has to
    be committed within the block.

    Raises `ValueError` for an invalid group or name.
    """
    return Capture(
        frozenset(full_name(group, namespace()) for group in groups),
        frozenset(map(validate_name, events)),
        using or DEFAULT_DB_ALIAS,
        on_commit,
    )


class Capture:
    """The context manager of `capture_events()`, which alone makes it."""

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
        # In the thread of Django's own async calls, so with their database connections.
        return await sync_to_async(self.__enter__)()

    async def __aexit__(self, *raised: object) -> None:
        await sync_to_async(self.__exit__)(*raised)

    def _enter_callbacks(self) -> None:
        # The inner block ends first, since its callbacks may publish, and so add callbacks to the
        # log's database.
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
