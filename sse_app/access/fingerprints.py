"""`Fingerprint`: what Django stores about a user's rights, as a value to compare.

A fingerprint covers the flags active, staff and superuser, the password, the groups, and the
permissions of the user and the groups. Other data that a policy may read is not covered. The
fingerprints of many users are read by one query.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import connections, models, router
from django.db.models import Model

CHUNK: Final = 1000


class Fingerprint(NamedTuple):
    """The rights of one user: `password` is a digest, `rights` the flags and permissions."""

    active: bool
    password: str
    rights: tuple[Any, ...]

    @property
    def seal(self) -> str:
        """A digest of `rights`, which a grant carries to compare later."""
        return _digest(repr(self.rights))

    def has_password_of(self, user: Any) -> bool:
        """Whether `user`, which may be read from a replica, has this password or no password."""
        password = getattr(user, "password", None)
        return password is None or self.password == _digest(str(password))


def read_fingerprints(keys: Collection[str]) -> dict[str, Fingerprint]:
    """Return the fingerprints of the users with these primary keys, by the key as text.

    One query for each 1000 users. Unknown and invalid keys are left out.
    """
    model = get_user_model()
    # Never from a replica, which may still have a right that was removed a moment ago.
    connection = connections[router.db_for_write(model)]
    found: dict[str, Fingerprint] = {}
    prepared = list(_prepared(model, keys, connection))
    for start in range(0, len(prepared), CHUNK):
        chunk = prepared[start : start + CHUNK]
        sql, lists = _sql(model, connection.alias)
        with connection.cursor() as cursor:
            cursor.execute(sql % ((_placeholders(len(chunk)),) * lists), chunk * lists)
            found.update(_found(model, cursor.fetchall()))
    return found


def _prepared(model: type[AbstractBaseUser], keys: Iterable[str], connection: Any) -> Iterator[Any]:
    for key in keys:
        # An invalid key, such as of a middleware's user, must not fail the query for all others.
        with suppress(ValueError, TypeError, ValidationError):
            yield model._meta.pk.get_db_prep_value(key, connection)


def _found(
    model: type[AbstractBaseUser], rows: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[str, Fingerprint]]:
    """Yield the key and the fingerprint of each user in the rows of `_sql()`."""
    users: dict[str, tuple[Any, ...]] = {}
    have: dict[str, list[tuple[str, str]]] = {}
    permissions: dict[str, list[str]] = {}
    for owner, kind, value, *own in rows:
        if kind == "user":
            users[owner] = value, *own
        elif kind == "of group":
            permissions.setdefault(owner, []).append(value)
        else:
            have.setdefault(owner, []).append((kind, value))
    for owner, (password, active, *flags) in users.items():
        member = sorted(have.get(owner, []))
        through = {p for kind, key in member if kind == "groups" for p in permissions.get(key, [])}
        rights = (*map(str, flags), _digest(repr((member, sorted(through)))))
        key = str(model._meta.pk.to_python(owner))
        yield key, Fingerprint(bool(active), _digest(str(password)), rights)


@lru_cache
def _sql(model: type[AbstractBaseUser], alias: str) -> tuple[str, int]:
    """Return the query, and the number of key lists among its parameters.

    The query is plain SQL and cached, since every stream of a signed-in user begins with it. It
    reads the keys themselves, as text: two sets of keys can have the same sum, and a key may be a
    UUID. Each row is an owner, a kind, a value, and the columns of a user.
    """
    connection = connections[alias]
    quote = connection.ops.quote_name
    text = models.CharField().cast_db_type(connection)
    user: type[Model] = model._meta.concrete_model  # type: ignore[assignment]
    columns = {field.name: _column(field, quote) for field in user._meta.concrete_fields}
    pk = columns[user._meta.pk.name]
    flags = [columns[name] for name in ("is_staff", "is_superuser") if name in columns]
    own = [columns.get("is_active", "1"), *flags]
    selects = [
        f"SELECT CAST({pk} AS {text}), 'user', {columns.get('password', repr(''))}, "
        f"{', '.join(own)} FROM {_tables(user, quote)} WHERE {pk} IN %s"
    ]
    none = ", ".join(["NULL"] * len(own))
    for kind, table, owner, other, condition in _memberships(model, quote):
        selects.append(
            f"SELECT CAST({owner} AS {text}), '{kind}', CAST({other} AS {text}), {none} "
            f"FROM {table} WHERE {condition}"
        )
    return " UNION ALL ".join(selects), len(selects)


def _memberships(
    model: type[AbstractBaseUser], quote: Callable[[str], str]
) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the kind, table, owner's column, value's column and condition of each relation."""
    for name in ("groups", "user_permissions"):
        field = many_to_many(model, name)
        if field is None:
            continue
        table, owner, other = _through(field, quote)
        yield name, table, owner, other, f"{owner} IN %s"
        rights = many_to_many(field.related_model, "permissions") if name == "groups" else None
        if rights is not None:
            joined, group, permission = _through(rights, quote)
            # The permissions of each group once, however many of the users are its members.
            chosen = f"{group} IN (SELECT {other} FROM {table} WHERE {owner} IN %s)"
            yield "of group", joined, group, permission, chosen


def _through(field: Any, quote: Callable[[str], str]) -> tuple[str, str, str]:
    return (
        quote(field.m2m_db_table()),
        quote(field.m2m_column_name()),
        quote(field.m2m_reverse_name()),
    )


def many_to_many(model: type[Model], name: str) -> Any:
    """Return the many-to-many field of `model` with this name, None without such a field."""
    return next((field for field in model._meta.many_to_many if field.name == name), None)


def _column(field: Any, quote: Callable[[str], str]) -> str:
    return f"{quote(field.model._meta.db_table)}.{quote(field.column)}"


def _tables(model: type[Model], quote: Callable[[str], str]) -> str:
    """Return the table of `model`, joined with the tables of its parent models."""
    tables = quote(model._meta.db_table)
    for parent in model._meta.all_parents:
        child = next(
            kind
            for kind in (model, *model._meta.all_parents)
            if kind._meta.parents.get(parent) is not None
        )
        link: Any = child._meta.parents[parent]
        tables += (
            f" JOIN {quote(parent._meta.db_table)} "
            f"ON {_column(link, quote)} = {_column(parent._meta.pk, quote)}"
        )
    return tables


def _placeholders(count: int) -> str:
    return f"({', '.join(['%s'] * count)})"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
