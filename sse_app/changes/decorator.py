"""Model changes as events: `@publish_changes` on a model.

`ChangesManager` and `ChangesQuerySet` are for what Django sends no signals of: bulk operations.
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

    `groups`: names or patterns such as `"order.{pk}"`, one or several, or a callable of the
    instance that returns them. `fields`: what the event shows, as `{"pk": …, "fields": {…}}`;
    none: `{"pk": …}` only. An update carries `changed` too, `{field: [old, new]}`, and with
    `only_if_changed` none is published when no chosen field changed. `serializer(instance)`
    replaces the data; a serializer class of Django REST framework may be given as it is. `name`
    is by default the model's, in lower case. `related`: relations that groups or data follow,
    loaded for all rows of a bulk operation at once, as `prefetch_related()` names them. `m2m`:
    many-to-many fields of which `<name>.<field>.changed` is published. `raw`: publish what
    `loaddata` loads too.

    Row and event are one transaction: `save()` and `delete()` run in `atomic()`, since Django
    sends `post_save` outside any transaction in autocommit. Proxies of the model publish as it
    does, and so do models that inherit from it. Bulk operations send no signals: they publish with
    `ChangesManager` or `ChangesQuerySet` only. With `fields`, an update costs one query more: the
    old values are read from the row. Raises `FieldDoesNotExist` for a name in `fields`, `related`
    or `m2m` that is no such field, `TypeError` for an abstract model, and `ValueError` for patterns
    of `groups` that can't be filled.
    """
    fields, related, m2m = as_names(fields), as_names(related), as_names(m2m)
    if serializer is not None and not callable(serializer):
        raise TypeError(
            f"@publish_changes(serializer={serializer!r}): give a callable of the instance, or a "
            "serializer class of Django REST framework."
        )

    def decorate(model: type[Model]) -> type[Model]:
        meta = model._meta
        if meta.abstract:
            raise TypeError(
                f"@publish_changes can't be on {model.__name__}: it is abstract and has no rows. "
                "Decorate the models that inherit from it."
            )
        relations = [one for one in (*meta.concrete_fields, *meta.many_to_many) if one.is_relation]
        _chosen(model, "related", [path.split("__")[0] for path in related], relations)
        sets = _chosen(model, "m2m", m2m, meta.many_to_many)
        publication = Publication(
            model,
            _prefix(name or meta.model_name),
            groups if callable(groups) else _patterns(model, groups),
            _chosen(model, "fields", fields, meta.concrete_fields),
            serializer,
            only_if_changed,
            related,
            raw,
        )
        register(publication)
        heirs: list[type[models.Model]] = [model, *_descendants(model)]
        for each in heirs:
            _connect(each, publication)
        for field in sets.values():
            connect_m2m(publication, field)
        _wrap(model, "save", lambda using: transaction.atomic(using=using))
        _wrap(model, "delete", published_together)
        return model

    return decorate


def _prefix(name: Any) -> str:
    """Return `name` if the events of a model can begin with it."""
    validate_published(f"{validate_name(name)}.updated")
    return cast("str", name)


def _patterns(model: type[models.Model], groups: Any) -> tuple[str, ...]:
    said = f"@publish_changes(groups={groups!r}) of {model.__name__}"
    listed = isinstance(groups, str | Iterable)
    patterns = as_names(groups) if listed else ()
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{said}: give names such as 'orders' or 'order.{{pk}}', or a callable.")
    for pattern in patterns:
        try:
            parts = [(text, name) for text, name, _, _ in Formatter().parse(pattern)]
            # Each field stands for one letter: the rest of the name is the same for all rows.
            validate_group("".join(text + "x" * (name is not None) for text, name in parts))
        except ValueError as error:
            raise ValueError(f"{said}: {pattern!r} is no pattern: {error}") from error
        named = [name for _, name in parts if name is not None]
        for name in named:
            attribute = re.split(r"[.\[]", name, maxsplit=1)[0]
            if not hasattr(model, attribute):
                raise ValueError(
                    f"{said}: {pattern!r} names {attribute!r}, which {model.__name__} has not. "
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
                f"@publish_changes({option}=…) names {name!r}, which is no {kind} of "
                f"{model.__name__}. It has: {', '.join(sorted(legal)) or 'none'}."
            )
    return {name: legal[name] for name in names}


def _connect(sender: type[models.Model], publication: Publication) -> None:
    """Publish what happens to the rows of `sender`: the model, a proxy, or one that inherits."""
    kept = f"{_BEFORE}_{publication.prefix}"
    shares_table = sender._meta.concrete_model is publication.model._meta.concrete_model

    def ignored(raw: bool) -> bool:
        # A fixture has a parent's row as an object of its own.
        return suppressed() or (raw and not (publication.raw and shares_table))

    def saving(sender: Any, instance: models.Model, raw: bool, using: str, **kwargs: Any) -> None:
        # The old values come from the row: what is in memory may be from before a rollback, a
        # refresh or another process.
        if ignored(raw) or not (publication.fields or not shares_table):
            return
        key = publication.key_of(instance)
        rows = {} if key is None else publication.rows([key], using)
        instance.__dict__[kept] = rows.get(key)

    def saved(
        sender: Any, instance: models.Model, created: bool, raw: bool, using: str, **kwargs: Any
    ) -> None:
        before = instance.__dict__.pop(kept, None)
        if ignored(raw):
            return
        values = publication.written(instance, before or {}, using)
        shown = _as_stored(instance, publication, using)
        # A row that inherits may be added to one that was there.
        if created and (shares_table or before is None):
            publication.publish([Change(shown, "created", values)], using)
            return
        before = before or {}
        only = kwargs.get("update_fields")
        for name, field in publication.fields.items():
            if only is not None and not {name, field.attname} & set(only) and name in before:
                values[name] = before[name]
        change = publication.updated(shown, before, values)
        if change is not None:
            publication.publish([change], using)

    def deleting(sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
        pending = pending_on(using)
        if pending is not None and publication.related:
            pending.deleting[publication].append(instance)

    def deleted(sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
        if suppressed():
            return
        pending = pending_on(using)
        if pending is not None:
            # Django deletes what refers to a row before the row, so what they follow is there yet.
            publication.load_related(pending.deleting.pop(publication, []))
        change = Change(instance, "deleted", publication.in_memory(instance))
        publication.publish([change], using)

    pre_save.connect(saving, sender=sender, weak=False)
    post_save.connect(saved, sender=sender, weak=False)
    if shares_table:  # with a row that inherits, Django deletes the inherited one by itself
        pre_delete.connect(deleting, sender=sender, weak=False)
        post_delete.connect(deleted, sender=sender, weak=False)


def _as_stored(instance: models.Model, publication: Publication, using: str) -> models.Model:
    """The instance, or one read anew if it has expressions in place of values."""
    plain = publication.serializer is None and not callable(publication.groups)
    if plain or not any(is_expression(value) for value in instance.__dict__.values()):
        return instance
    return type(instance)._base_manager.using(using).get(pk=instance.pk)


def _descendants(model: type[models.Model]) -> list[type[models.Model]]:
    return [one for child in model.__subclasses__() for one in (child, *_descendants(child))]


def _inherit(sender: type[models.Model], **kwargs: Any) -> None:
    for publication in publications_of(sender):
        _connect(sender, publication)


class_prepared.connect(_inherit, dispatch_uid="sse_app.changes")


def _wrap(model: type[models.Model], method: str, block: Callable[[str], Any]) -> None:
    """Make row and event one transaction in autocommit; a failed publish undoes the row."""
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
                self.pk = key  # Django took it, but the row is there again
            raise

    setattr(model, method, wrapped)
