"""Model changes as events: `@publish_changes` on a model, by Django's signals.

Bulk operations send no signals: `ChangesManager` and `ChangesQuerySet` publish those.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from string import Formatter
from typing import Any, Final, TypeVar, cast

from django.core.exceptions import FieldDoesNotExist
from django.db import models, router, transaction
from django.db.models.signals import class_prepared, post_delete, post_save, pre_delete, pre_save

from ..protocol.events import validate_name, validate_published
from ..protocol.groups import validate_group
from .bulk import ChangesManager, ChangesQuerySet
from .many_to_many import connect_m2m
from .publication import (
    Change,
    Groups,
    Publication,
    Serializer,
    as_names,
    is_expression,
    pending_on,
    publications_of,
    published_together,
    register,
    suppress_changes,
    suppressed,
)

__all__ = ["ChangesManager", "ChangesQuerySet", "publish_changes", "suppress_changes"]

Model = TypeVar("Model", bound=models.Model)

_BEFORE: Final = "_sse_app_before"


def publish_changes(
    *,
    groups: Groups,
    fields: Iterable[str] = (),
    serializer: Serializer | None = None,
    only_if_changed: bool = True,
    name: str | None = None,
    related: Iterable[str] = (),
    m2m: Iterable[str] = (),
    raw: bool = False,
) -> Callable[[type[Model]], type[Model]]:
    """Publish `<name>.created`, `.updated` and `.deleted` for the decorated model.

    `groups`: one or several names or patterns such as `"order.{pk}"`, or a callable of the
    instance that returns names. `fields`: the fields in the event, `{"pk": …, "fields": {…}}`;
    without them it has `{"pk": …}` only. An update also has `changed`, `{field: [old, new]}`; with
    `only_if_changed` it is published only if a chosen field changed. `serializer(instance)`
    replaces the data; a serializer class of Django REST framework is accepted too. `name`: by
    default the model's name in lower case. `related`: relations that groups or data read, named as
    for `prefetch_related()` and loaded together for the rows of a bulk operation. `m2m`:
    many-to-many fields for which `<name>.<field>.changed` is published. `raw`: also publish rows
    that `loaddata` loads.

    Row and event are one transaction: `save()` and `delete()` run in `atomic()`, since in
    autocommit Django sends `post_save` outside any transaction. Proxies and models that inherit
    from the model publish too. Bulk operations send no signals, so they publish only with
    `ChangesManager` or `ChangesQuerySet`. With `fields`, an update costs one query more, which
    reads the old values. Raises `FieldDoesNotExist` for an unknown name in `fields`, `related` or
    `m2m`, `TypeError` for an abstract model or a `serializer` that can't be called, and
    `ValueError` for an invalid `name` or for patterns in `groups` that can't be filled.
    """
    return _Options(groups, fields, serializer, only_if_changed, name, related, m2m, raw).decorate


class _Options:
    """The arguments of `@publish_changes`, before its model is known."""

    def __init__(
        self,
        groups: Groups,
        fields: Iterable[str],
        serializer: Serializer | None,
        only_if_changed: bool,
        name: str | None,
        related: Iterable[str],
        m2m: Iterable[str],
        raw: bool,
    ) -> None:
        if serializer is not None and not callable(serializer):
            raise TypeError(
                f"@publish_changes(serializer={serializer!r}): give a callable of the instance, or "
                "a serializer class of Django REST framework."
            )
        self.groups, self.serializer, self.name = groups, serializer, name
        self.fields, self.related, self.m2m = as_names(fields), as_names(related), as_names(m2m)
        self.only_if_changed, self.raw = only_if_changed, raw

    def decorate(self, model: type[Model]) -> type[Model]:
        """Publish the changes of `model`; return it."""
        publication = self._publication(model)
        m2m_fields = _chosen(model, "m2m", self.m2m, model._meta.many_to_many)
        register(publication)
        senders: list[type[models.Model]] = [model, *_descendants(model)]
        for sender in senders:
            _Receivers(sender, publication).connect()
        for field in m2m_fields.values():
            connect_m2m(publication, field)
        _wrap(model, "save", lambda using: transaction.atomic(using=using))
        _wrap(model, "delete", published_together)
        return model

    def _publication(self, model: type[models.Model]) -> Publication:
        meta = model._meta
        if meta.abstract:
            raise TypeError(
                f"@publish_changes can't be on {model.__name__}: it is abstract and has no rows. "
                "Decorate the models that inherit from it."
            )
        relations = [one for one in (*meta.concrete_fields, *meta.many_to_many) if one.is_relation]
        _chosen(model, "related", [path.split("__")[0] for path in self.related], relations)
        return Publication(
            model,
            _prefix(self.name or meta.model_name),
            self.groups if callable(self.groups) else _patterns(model, self.groups),
            _chosen(model, "fields", self.fields, meta.concrete_fields),
            self.serializer,
            self.only_if_changed,
            self.related,
            self.raw,
        )


def _prefix(name: Any) -> str:
    """Return `name` if it is valid as the first part of the names of events."""
    validate_published(f"{validate_name(name)}.updated")
    return cast("str", name)


def _patterns(model: type[models.Model], groups: Any) -> tuple[str, ...]:
    option = f"@publish_changes(groups={groups!r}) of {model.__name__}"
    listed = isinstance(groups, str | Iterable)
    patterns = as_names(groups) if listed else ()
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{option}: give names such as 'orders' or 'order.{{pk}}', or a callable.")
    for pattern in patterns:
        try:
            parts = [(text, name) for text, name, _, _ in Formatter().parse(pattern)]
            # A letter stands for each field: the rest of the name is the same for all rows.
            validate_group("".join(text + "x" * (name is not None) for text, name in parts))
        except ValueError as error:
            raise ValueError(f"{option}: {pattern!r} is not a valid pattern: {error}") from error
        named = [name for _, name in parts if name is not None]
        for name in named:
            attribute = re.split(r"[.\[]", name, maxsplit=1)[0]
            if not hasattr(model, attribute):
                raise ValueError(
                    f"{option}: {pattern!r} names {attribute!r}, but {model.__name__} has none. "
                    "Name a field or property, or give a callable of the instance."
                )
    return patterns


def _chosen(
    model: type[models.Model], option: str, names: Iterable[str], fields: Iterable[Any]
) -> dict[str, Any]:
    legal = {field.name: field for field in fields}
    kind = {"fields": "column", "related": "relation", "m2m": "many-to-many field"}[option]
    for name in names:
        if name not in legal:
            raise FieldDoesNotExist(
                f"@publish_changes({option}=…) names {name!r}, which is not a {kind} of "
                f"{model.__name__}. It has: {', '.join(sorted(legal)) or 'none'}."
            )
    return {name: legal[name] for name in names}


class _Receivers:
    """Receivers of Django's signals that publish what happens to the rows of one model.

    `sender` is the model of the publication, a proxy of it, or a model that inherits from it.
    """

    def __init__(self, sender: type[models.Model], publication: Publication) -> None:
        self._sender = sender
        self._publication = publication
        #: The instance's attribute for the old values, between `pre_save` and `post_save`.
        self._attribute = f"{_BEFORE}_{publication.prefix}"
        own = publication.model._meta.concrete_model
        self._shares_table = sender._meta.concrete_model is own

    def connect(self) -> None:
        """Connect the receivers for as long as the process lives."""
        pre_save.connect(self._before_save, sender=self._sender, weak=False)
        post_save.connect(self._after_save, sender=self._sender, weak=False)
        # Deleting a row that inherits, Django also sends the signals of the inherited row.
        if self._shares_table:
            pre_delete.connect(self._before_delete, sender=self._sender, weak=False)
            post_delete.connect(self._after_delete, sender=self._sender, weak=False)

    def _ignores(self, raw: bool) -> bool:
        # A fixture also has the inherited row as a separate object, which publishes.
        return suppressed() or (raw and not (self._publication.raw and self._shares_table))

    def _before_save(
        self, sender: Any, instance: models.Model, raw: bool, using: str, **kwargs: Any
    ) -> None:
        # Read the old values from the row: the instance may have values from before a rollback, a
        # refresh or a change by another process.
        publication = self._publication
        if self._ignores(raw) or not (publication.fields or not self._shares_table):
            return
        key = publication.key_of(instance)
        rows = {} if key is None else publication.rows([key], using)
        instance.__dict__[self._attribute] = rows.get(key)

    def _after_save(
        self,
        sender: Any,
        instance: models.Model,
        created: bool,
        raw: bool,
        using: str,
        update_fields: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        before = instance.__dict__.pop(self._attribute, None)
        if self._ignores(raw):
            return
        publication = self._publication
        values = publication.written(instance, before or {}, using)
        stored = _as_stored(instance, publication, using)
        # A row that inherits may be added to an inherited row that exists: an update of that one.
        if created and (self._shares_table or before is None):
            publication.publish([Change(stored, "created", values)], using)
            return
        before = before or {}
        for name, field in publication.fields.items():
            skipped = update_fields is not None and not {name, field.attname} & set(update_fields)
            if skipped and name in before:
                values[name] = before[name]
        change = publication.updated(stored, before, values)
        if change is not None:
            publication.publish([change], using)

    def _before_delete(
        self, sender: Any, instance: models.Model, using: str, **kwargs: Any
    ) -> None:
        pending = pending_on(using)
        if pending is not None and self._publication.related:
            pending.deleting[self._publication].append(instance)

    def _after_delete(self, sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
        if suppressed():
            return
        publication = self._publication
        pending = pending_on(using)
        if pending is not None:
            # Django deletes rows after the rows that refer to them, so the related rows of these
            # instances still exist.
            publication.load_related(pending.deleting.pop(publication, []))
        change = Change(instance, "deleted", publication.in_memory(instance))
        publication.publish([change], using)


def _as_stored(instance: models.Model, publication: Publication, using: str) -> models.Model:
    """Return the instance, or the row read again if it has expressions in place of values."""
    plain = publication.serializer is None and not callable(publication.groups)
    if plain or not any(is_expression(value) for value in instance.__dict__.values()):
        return instance
    return type(instance)._base_manager.using(using).get(pk=instance.pk)


def _descendants(model: type[models.Model]) -> list[type[models.Model]]:
    return [one for child in model.__subclasses__() for one in (child, *_descendants(child))]


def _inherit(sender: type[models.Model], **kwargs: Any) -> None:
    for publication in publications_of(sender):
        _Receivers(sender, publication).connect()


class_prepared.connect(_inherit, dispatch_uid="sse_app.changes")


def _wrap(model: type[models.Model], method: str, block: Callable[[str], Any]) -> None:
    """Run `method` in `block(using)`: row and event are one transaction, in autocommit too."""
    original = getattr(model, method)

    @functools.wraps(original)
    def wrapped(self: models.Model, *args: Any, **kwargs: Any) -> Any:
        using = kwargs.get("using") or (args[0] if method == "delete" and args else None)
        using = using or router.db_for_write(type(self), instance=self)
        key = self.pk
        try:
            with block(using):
                return original(self, *args, **kwargs)
        except BaseException:
            if method == "delete":
                self.pk = key  # Django has removed the key, but the row exists again.
            raise

    setattr(model, method, wrapped)
