"""What a save of a user has changed, found without a query.

A save of a user concerns streams only if rights may have changed. The values of a user are noted
when Django reads the row, and compared after a save.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final

from django.db import models, transaction

#: The fields of a fingerprint.
RIGHTS: Final = frozenset({"is_active", "is_staff", "is_superuser", "password"})
#: Kinds of fields that say when or from where a user was last seen, and on which no right depends.
_NO_RIGHTS: Final = (models.DateField, models.TimeField, models.GenericIPAddressField)
_NOTED: Final = "_sse_app_noted"
_missing: Final = object()


def note_loaded_users(model: Any) -> None:
    """Note the values of each user of `model` that Django reads from the database."""
    if hasattr(model.from_db, "notes_users"):
        return
    original = model.from_db.__func__

    def from_db(cls: Any, *args: Any, **kwargs: Any) -> Any:
        user = original(cls, *args, **kwargs)
        note_values(user)
        return user

    from_db.notes_users = True  # type: ignore[attr-defined]
    model.from_db = classmethod(from_db)


def note_values(user: Any) -> None:
    """Note that the database has the values of `user`."""
    user.__dict__[_NOTED] = _values(user)


def changed_fields(user: Any, written: Collection[str] | None, using: str) -> set[str]:
    """Return the names of the fields with possible rights that a save has changed.

    `written`: the saved fields, None for all. All of these count for a user that was not read from
    the database.
    """
    names = _watched(user.__class__)
    before, after = user.__dict__.get(_NOTED), _values(user)
    if before is None:
        before = (_missing,) * len(names)
    changed = {
        name
        for name, old, new in zip(names, before, after, strict=True)
        if old != new and (written is None or name in written)
    }
    if changed:
        # A rollback brings the old values back.
        transaction.on_commit(lambda: user.__dict__.update({_NOTED: after}), using=using)
    return changed


def _values(user: Any) -> tuple[object, ...]:
    return tuple(user.__dict__.get(name, _missing) for name in _watched(user.__class__))


@lru_cache
def _watched(model: type[models.Model]) -> tuple[str, ...]:
    fields = [one for one in model._meta.concrete_fields if not one.primary_key]
    return tuple(one.attname for one in fields if not isinstance(one, _NO_RIGHTS))
