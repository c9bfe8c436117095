"""What a user's right to listen may hang on, as a value to compare; read for many users at once.

It takes in what Django keeps about a user's rights: whether the account is active, staff or
superuser, the password, the groups, the permissions of both. What a policy looks at beyond that, it
does not show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import Group
from django.core.exceptions import FieldDoesNotExist
from django.db import connections, router
from django.db.models import Model
from django.utils import timezone

CHUNK: Final = 1000


class Fingerprint(NamedTuple):
    """Of one user: `password` is a digest, `rights` whatever else was found."""

    active: bool
    password: str
    rights: tuple[Any, ...]

    @property
    def seal(self) -> str:
        """A digest of `rights`, to be signed and compared later."""
        return hashlib.sha256(repr(self.rights).encode()).hexdigest()[:16]


def read_fingerprints(keys: Collection[str]) -> dict[str, Fingerprint]:
    """Return the fingerprints of the users with these primary keys, by the key as text.

    One query for a thousand users; who does not exist is left out.
    """
    model = get_user_model()
    # Never from a replica, where a right taken a moment ago may still be seen.
    connection = connections[router.db_for_write(model)]
    found = {}
    for part in _parts(list(keys)):
        with connection.cursor() as cursor:
            given = [model._meta.pk.get_db_prep_value(key, connection) for key in part]
            cursor.execute(_sql(model, connection.alias) % _places(len(part)), given)
            for pk, active, password, *rights in cursor.fetchall():
                digest = hashlib.sha256(str(password).encode()).hexdigest()[:16]
                key = str(model._meta.pk.to_python(pk))
                found[key] = Fingerprint(bool(active), digest, tuple(map(str, rights)))
    return found


def live_sessions(keys: Collection[str]) -> set[str]:
    """Return which of the sessions are still there.

    One query for a thousand where sessions are kept in the database; other stores are asked one by
    one, and cookies, which nobody can take back, are always there.
    """
    store = import_module(django_settings.SESSION_ENGINE).SessionStore
    if "signed_cookies" in store.__module__:
        return set(keys)
    if not hasattr(store, "get_model_class"):
        return {key for key in keys if store().exists(key)}
    model = store.get_model_class()
    all_sessions = model._default_manager.using(router.db_for_write(model))
    sessions = all_sessions.filter(expire_date__gt=timezone.now())
    live: set[str] = set()
    for part in _parts(list(keys)):
        live.update(sessions.filter(pk__in=part).values_list("pk", flat=True))
    return live


@lru_cache
def _sql(model: type[AbstractBaseUser], alias: str) -> str:
    """Written out and kept: every stream of a signed-in user begins with it."""
    quote = connections[alias].ops.quote_name
    columns = {f.name: f"u.{quote(str(f.column))}" for f in model._meta.concrete_fields}
    pk = columns[model._meta.pk.name]
    plain = [columns.get("is_active", "1"), columns.get("password", "''")]
    flags = [columns[name] for name in ("is_staff", "is_superuser") if name in columns]
    sums = [
        f"(SELECT SUM({_WEIGHT.format(f'CAST({other} AS DECIMAL(38, 0))')}) "
        f"FROM {tables} WHERE {owner} = {pk})"
        for tables, owner, other in _memberships(model, quote)
    ]
    chosen = ", ".join([pk, *plain, *flags, *sums])
    return f"SELECT {chosen} FROM {quote(model._meta.db_table)} u WHERE {pk} IN %s"


#: One sum of these shows nearly every change of a set of ids; a function that joins them into a
#: list has another name on every database. As decimals, since squares overflow PostgreSQL's int.
_WEIGHT: Final = "1 + 1000003 * {0} + 8191 * {0} * {0}"


def _memberships(
    model: type[AbstractBaseUser], quote: Callable[[str], str]
) -> Iterator[tuple[str, str, str]]:
    """Yield tables, the column of the user in them, and the column of what the user has."""
    for name in ("groups", "user_permissions"):
        if not _has(model, name):
            continue
        field: Any = model._meta.get_field(name)
        table, owner = quote(field.m2m_db_table()), quote(field.m2m_column_name())
        other = quote(field.m2m_reverse_name())
        yield f"{table} m", f"m.{owner}", f"m.{other}"
        if name == "groups" and field.related_model is Group:
            rights: Any = Group._meta.get_field("permissions")
            joined, group = quote(rights.m2m_db_table()), quote(rights.m2m_column_name())
            permission = quote(rights.m2m_reverse_name())
            tables = f"{table} m JOIN {joined} p ON p.{group} = m.{other}"
            yield tables, f"m.{owner}", f"p.{permission}"


def _places(count: int) -> str:
    return f"({', '.join(['%s'] * count)})"


def _has(model: type[Model], name: str) -> bool:
    try:
        model._meta.get_field(name)
    except FieldDoesNotExist:
        return False
    return True


def _parts(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]
