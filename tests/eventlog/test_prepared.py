"""On PostgreSQL a connection that appends often prepares the statement, where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from sse_app.eventlog import DatabaseEventLog, database_postgresql
from sse_app.eventlog.database_postgresql import PREPARED_AFTER
from sse_app.protocol.cursors import START
from sse_app.protocol.events import Event

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])


@pytest.fixture
def append(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Append an event on a new connection; return the first words of the statements."""
    log, connection = DatabaseEventLog("postgresql"), connections["postgresql"]
    monkeypatch.setattr(database_postgresql, "_unprepared", set())
    connection.close()
    connection.ensure_connection()
    offsets = iter(range(1, 1000))

    def append() -> list[str]:
        with CaptureQueriesContext(connection) as queries:
            (stored,) = log.append([Event.of("g", "n", "\0\\ 'é")])
        assert stored.offset == next(offsets)
        assert log.since("g", START, 1000)[-1] == stored
        return [query["sql"].split()[0] for query in queries]

    yield append
    connection.close()


def test_the_statement_of_a_connection_is_planned_once(append: Callable[[], list[str]]) -> None:
    ran = [append() for _ in range(PREPARED_AFTER + 3)]
    before, after = [["WITH"]] * (PREPARED_AFTER - 1), [["EXECUTE"]] * 3
    assert ran == [*before, ["PREPARE", "EXECUTE"], *after]


def test_in_a_transaction_of_the_caller_no_statement_can_fail_for_that(
    append: Callable[[], list[str]],
) -> None:
    """The failure would end the transaction."""
    with transaction.atomic("postgresql"):
        assert all("EXECUTE" not in append() for _ in range(PREPARED_AFTER + 1))


@pytest.mark.parametrize(
    "elsewhere",
    ["DEALLOCATE ALL", "ALTER TABLE sse_app_grouphead ALTER epoch TYPE text"],
)
def test_a_statement_that_is_not_there_is_never_prepared_again(
    append: Callable[[], list[str]], elsewhere: str
) -> None:
    """As behind a pooler, or after the migration to a later version."""
    for _ in range(PREPARED_AFTER):
        append()
    with connections["postgresql"].cursor() as cursor:
        cursor.execute(elsewhere)
    try:
        assert append() == ["EXECUTE", "WITH"]
        assert append() == ["WITH"]
    finally:
        if "epoch" in elsewhere:
            with connections["postgresql"].cursor() as cursor:
                cursor.execute("ALTER TABLE sse_app_grouphead ALTER epoch TYPE varchar(16)")


def test_a_statement_that_another_client_of_the_pooler_has_prepared_is_no_error(
    append: Callable[[], list[str]],
) -> None:
    for _ in range(PREPARED_AFTER):
        append()
    database_postgresql._appends.clear()
    ran = [append() for _ in range(PREPARED_AFTER + 1)]
    assert ran[-2:] == [["PREPARE", "WITH"], ["WITH"]]


def test_with_a_pooler_that_django_knows_of_nothing_is_prepared(
    append: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = connections["postgresql"].settings_dict
    monkeypatch.setitem(options, "DISABLE_SERVER_SIDE_CURSORS", True)
    assert [append() for _ in range(PREPARED_AFTER + 1)] == [["WITH"]] * (PREPARED_AFTER + 1)
