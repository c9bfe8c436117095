"""`save()` of a decorated model: a row and its event are one transaction.

The event is published by a step of Django's own `save()`, between the row and the signal
`post_save`. So receivers of that signal run as without the decorator: in autocommit other
connections see the row by then, and an error of a receiver does not take the row along. A save that
a receiver makes is published after the one that it received.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from django.db import models, transaction

from .pending import suppressed
from .publication import Publication


@dataclass
class _Save:
    """A save of one row, over all tables of multi-table inheritance.

    `old`: the row before, if it was read. `created`: None until the table of the publication's
    model was written.
    """

    old: models.Model | None
    created: bool | None = None


def publish_saves(model: Any, publication: Publication) -> None:
    """Publish each saved row of `model`, of its proxies and of the models that inherit from it."""
    original = model._save_table

    @functools.wraps(original)
    def save_table(
        self: models.Model,
        raw: bool = False,
        cls: Any = None,
        force_insert: Any = False,
        force_update: bool = False,
        using: Any = None,
        update_fields: Collection[str] | None = None,
    ) -> bool:
        write = functools.partial(
            original, self, raw, cls, force_insert, force_update, using, update_fields
        )
        if suppressed() or (raw and not publication.raw) or publication.ignores(update_fields):
            return bool(write())
        inserts = bool(force_insert) or (not raw and _has_new_key(self))
        # Django marks a transaction of the project for rollback after an error here, so a
        # savepoint would be of no use.
        with transaction.atomic(using=using, savepoint=False):
            return _write(publication, self, cls, using, update_fields, inserts, write)

    model._save_table = save_table


def _write(
    publication: Publication,
    instance: models.Model,
    table: type[models.Model],
    using: str,
    update_fields: Collection[str] | None,
    inserts: bool,
    write: Callable[[], object],
) -> bool:
    """Write the row of one table; publish after the last table of the instance."""
    own: Any = publication.model._meta.concrete_model
    attribute = f"_sse_app_save_{id(publication)}"
    save: _Save | None = instance.__dict__.pop(attribute, None)
    if save is None and issubclass(own, table):
        # The first table of the row's: the last moment before it changes.
        save = _Save(None if inserts else _before(instance, publication, using))
    updated = bool(write())
    if save is not None and table is own:
        save.created = not updated
    if table is not instance._meta.concrete_model:
        instance.__dict__.update({attribute: save} if save else {})
    elif save is not None and save.created is not None:
        changes = publication.saved(
            instance, save.old, using, created=save.created, written=update_fields
        )
        publication.publish(changes, using)
    return updated


def _before(instance: models.Model, publication: Publication, using: str) -> models.Model | None:
    """Return the row as it is stored, if an update has to compare it.

    Not the values that the instance was loaded with: these may be from before a rollback, a refresh
    or a change by another process.
    """
    key = publication.key_of(instance)
    if key is None or publication.columns == frozenset():
        return None
    return publication.stored([key], using).get(key)


def _has_new_key(instance: models.Model) -> bool:
    """Whether Django inserts the row because it is new and its key has a default."""
    meta: Any = instance._meta
    defaults = all(field.has_default() or field.has_db_default() for field in meta.pk_fields)
    return defaults and instance._state.adding
