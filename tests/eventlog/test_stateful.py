"""Whatever happens to the log, the layer, the process and the connection: exact, or a reset first.

Two machines of rules against the real hub and each real log. `make fuzz` runs more of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import connections
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from sse_app.conf import settings as app_settings
from sse_app.eventlog import DatabaseEventLog, event_log

from ..support.chains import GoingBack
from ..support.machine import Streams
from ..support.simulation import Writer, app_modules
from ..support.stores import DatabaseStore, MemoryStore, RedisStore, Store

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])

#: So small that a short run crosses them.
BOUNDS = {"PAGE_EVENTS": 3, "RECENT_EVENTS": 4, "AHEAD_EVENTS": 4, "KEPT_PAGES": 2}
BOUNDS |= {"LEAST_MEMBERS": 1, "FLUSH_STREAMS": 1}

#: Examples in the normal run; FUZZ_EXAMPLES asks for as many random ones, twice as long.
EXAMPLES = {"memory": 250, "sqlite": 100, "postgresql": 40, "redis": 80}
FUZZ_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))


@pytest.fixture(
    params=[
        *("memory", "sqlite"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgresql", "redis")),
    ]
)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Each kind of log in turn, with small bounds, and told of nothing by the database."""
    for module in app_modules():
        for name, value in BOUNDS.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(DatabaseEventLog, "watch", lambda self, changed: None)
    for alias in ("default", "postgresql"):
        # Channels closes what is old after each call; a new connection each time takes too long.
        monkeypatch.setitem(connections[alias].settings_dict, "CONN_MAX_AGE", None)
    monkeypatch.setattr(django_settings, "SSE_APP", {})
    if request.param == "memory":
        yield MemoryStore("sse_app.eventlog.MemoryEventLog")
    elif request.param == "redis":
        yield RedisStore(request.getfixturevalue("valkey"))
    else:
        yield DatabaseStore("default" if request.param == "sqlite" else "postgresql")
    asyncio.run(sync_to_async(connections.close_all)())  # on the thread that the hub works in
    monkeypatch.undo()
    app_settings.cache_clear()
    event_log.cache_clear()


@pytest.fixture
def writers(store: Store) -> Iterator[list[Writer]]:
    """As many transactions at a time as the database can have."""
    alias = store.alias or "default"
    writers = [Writer(alias) for _ in range(2 if alias == "postgresql" else 1)]
    yield writers
    for writer in writers:
        writer.close()


@pytest.mark.matrix
def test_every_client_gets_the_log_or_a_reset_first(
    store: Store, writers: list[Writer], request: pytest.FixtureRequest
) -> None:
    run(lambda: Streams(store, writers), request)


@pytest.mark.matrix
def test_a_log_that_goes_back_and_grows_again_is_never_silent(
    store: Store, request: pytest.FixtureRequest
) -> None:
    run(lambda: GoingBack(store), request)


def run(machine: Callable[[], RuleBasedStateMachine], request: pytest.FixtureRequest) -> None:
    """Run a machine as often as the kind of log allows."""
    kind = request.node.callspec.params["store"]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=FUZZ_EXAMPLES or EXAMPLES[kind],
            stateful_step_count=60 if FUZZ_EXAMPLES else 30,
            derandomize=not FUZZ_EXAMPLES,
            print_blob=True,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
