"""`needs_tables()`: the error of a database that has not been migrated names the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pkgutil import iter_modules
from typing import Final

from django.db import DatabaseError, ProgrammingError


class MissingTables(ProgrammingError):
    """The database has not been migrated."""


WITHOUT_TABLES: Final = (
    "The database {!r} does not have the tables of sse_app yet. Run `manage.py migrate`."
)
NOT_PUBLISHED: Final = (
    f"Nothing was published: t{WITHOUT_TABLES[1:]} A migration that saves rows of a model with "
    "@publish_changes, or publishes, needs the line dependencies = [..., ('sse_app', {!r})]; or "
    "it saves them within suppress_changes()."
)


@contextmanager
def needs_tables(alias: str, text: str = WITHOUT_TABLES) -> Iterator[None]:
    """Say what to do if a statement of the block finds no table or column of the app."""
    try:
        yield
    except MissingTables as error:  # Of a block within this one.
        raise MissingTables(text.format(alias, _last_migration())) from error.__cause__
    except DatabaseError as error:
        sqlite = ("no such table", "no such column", "has no column")
        missing = getattr(error.__cause__, "sqlstate", None) in ("42P01", "42703")
        if not missing and not any(words in str(error) for words in sqlite):
            raise
        raise MissingTables(text.format(alias, _last_migration())) from error


def _last_migration() -> str:
    from .. import migrations

    return max(module.name for module in iter_modules(migrations.__path__))
