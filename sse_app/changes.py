"""Model changes as events: `@publish_changes` on a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from django.core.exceptions import FieldDoesNotExist
from django.db import connections, models, router, transaction
from django.db.models.signals import post_delete, post_save, pre_save

from .events import validate_name
from .publishing import publish

Model = TypeVar("Model", bound=models.Model)
Groups = str | Iterable[str] | Callable[[Any], str | Iterable[str]]
Serializer = Callable[[Any], Any]

_BEFORE: Final = "_sse_app_before"

_suppressed: ContextVar[bool] = ContextVar("sse_app_changes_suppressed", default=False)


@dataclass(frozen=True)
class _Publication:
    """How the changes of one model are published."""

    prefix: str
    groups: Groups
    fields: Mapping[str, models.Field[Any, Any]]
    serializer: Serializer | None
    only_changed: bool

    def groups_of(self, instance: models.Model) -> Iterator[str]:
        groups = self.groups(instance) if callable(self.groups) else self.groups
        values = _Values(instance)
        for group in [groups] if isinstance(groups, str) else groups:
            yield group.format_map(values)

    def row(self, instance: models.Model, using: str) -> dict[str, Any] | None:
        """The chosen fields as they are in the database, the row locked; None if it isn't there."""
        rows = type(instance)._base_manager.using(using).filter(pk=instance.pk)
        if connections[using].features.has_select_for_update:
            rows = rows.select_for_update()
        names = [field.attname for field in self.fields.values()]
        row = rows.values_list(*names).first()
        return None if row is None else dict(zip(self.fields, row, strict=True))

    def in_memory(self, instance: models.Model) -> dict[str, Any]:
        """The chosen fields as the instance has them; deferred ones are left out, not loaded."""
        return {
            name: instance.__dict__[field.attname]
            for name, field in self.fields.items()
            if field.attname in instance.__dict__
        }

    def written(self, instance: models.Model, before: Mapping[str, Any], using: str) -> Any:
        """The chosen fields after a save that wrote what differs from `before` in memory."""
        values = {**before, **self.in_memory(instance)}
        if any(hasattr(value, "resolve_expression") for value in values.values()):
            return self.row(instance, using) or {}  # such as F("total") + 1: the database knows
        return {name: self.fields[name].to_python(value) for name, value in values.items()}

    def publish(
        self,
        instance: models.Model,
        verb: str,
        using: str,
        values: Mapping[str, Any],
        changed: Mapping[str, Any] | None = None,
    ) -> None:
        if self.serializer is not None:
            data = self.serializer(instance)
        else:
            data = {"pk": instance.pk}
            if self.fields:
                data["fields"] = values
                if changed is not None:
                    data["changed"] = changed
        for group in self.groups_of(instance):
            publish(group, f"{self.prefix}.{verb}", data, using=using)


class _Values(dict[str, Any]):
    """What `"order.{pk}"` may name: any attribute of the instance."""

    def __init__(self, instance: models.Model) -> None:
        super().__init__()
        self._instance = instance

    def __missing__(self, name: str) -> Any:
        return getattr(self._instance, name)


def publish_changes(
    *,
    groups: Groups,
    fields: Iterable[str] = (),
    serializer: Serializer | None = None,
    only_if_changed: bool = True,
    name: str | None = None,
) -> Callable[[type[Model]], type[Model]]:
    """Publish `<name>.created`, `.updated` and `.deleted` for the decorated model.

    `groups`: names or patterns such as `"order.{pk}"`, one or several, or a callable of the
    instance that returns them. `fields`: what the event shows, as `{"pk": …, "fields": {…}}`;
    none: `{"pk": …}` only. An update carries `changed` too, `{field: [old, new]}`, and with
    `only_if_changed` none is published when no chosen field changed. `serializer(instance)`
    replaces the data. `name` is by default the model's, in lower case.

    Row and event are one transaction: `save()` and `delete()` run in `atomic()`, since Django
    sends `post_save` outside any transaction in autocommit. Bulk operations send no signals and
    publish nothing, but the admin's bulk delete does. With `fields`, an update costs one query
    more: the old values are read from the row. Raises `FieldDoesNotExist` for a field that is no
    column of the model.
    """
    chosen = (fields,) if isinstance(fields, str) else tuple(fields)

    def decorate(model: type[Model]) -> type[Model]:
        prefix = validate_name(name or model._meta.model_name)
        publication = _Publication(
            prefix, groups, _chosen(model, chosen), serializer, only_if_changed
        )
        _connect(model, publication)
        _wrap_in_atomic(model, "save")
        _wrap_in_atomic(model, "delete")
        return model

    return decorate


@contextmanager
def suppress_changes() -> Iterator[None]:
    """Publish no model changes of this thread or task within the `with` block."""
    token = _suppressed.set(True)
    try:
        yield
    finally:
        _suppressed.reset(token)


def _chosen(model: type[models.Model], names: tuple[str, ...]) -> dict[str, models.Field[Any, Any]]:
    columns = {field.name: field for field in model._meta.concrete_fields}
    for name in names:
        if name not in columns:
            raise FieldDoesNotExist(
                f"@publish_changes(fields=…) names {name!r}, which is no column of "
                f"{model.__name__}. It has: {', '.join(sorted(columns))}."
            )
    return {name: columns[name] for name in names}


def _connect(model: type[models.Model], publication: _Publication) -> None:
    def saving(sender: Any, instance: models.Model, raw: bool, using: str, **kwargs: Any) -> None:
        # The old values come from the row: what is in memory may be from before a rollback, a
        # refresh or another process.
        if publication.fields and not raw and not _suppressed.get():
            adding = instance._state.adding and instance.pk is None
            instance.__dict__[_BEFORE] = None if adding else publication.row(instance, using)

    def saved(
        sender: Any, instance: models.Model, created: bool, raw: bool, using: str, **kwargs: Any
    ) -> None:
        before = instance.__dict__.pop(_BEFORE, None) or {}
        if raw or _suppressed.get():
            return
        values = publication.written(instance, before, using)
        if created:
            publication.publish(instance, "created", using, values)
            return
        only = kwargs.get("update_fields")
        for name, field in publication.fields.items():
            if only is not None and not {name, field.attname} & set(only) and name in before:
                values[name] = before[name]
        changed = {
            name: [before.get(name), value]
            for name, value in values.items()
            if name not in before or before[name] != value
        }
        if changed or not publication.fields or not publication.only_changed:
            publication.publish(instance, "updated", using, values, changed)

    def deleted(sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
        if not _suppressed.get():
            publication.publish(instance, "deleted", using, publication.in_memory(instance))

    label = f"sse_app.{model._meta.label_lower}"
    pre_save.connect(saving, sender=model, weak=False, dispatch_uid=label)
    post_save.connect(saved, sender=model, weak=False, dispatch_uid=label)
    post_delete.connect(deleted, sender=model, weak=False, dispatch_uid=label)


def _wrap_in_atomic(model: type[models.Model], method: str) -> None:
    """Make row and event one transaction in autocommit; a failed publish undoes the row."""
    original = getattr(model, method)

    @functools.wraps(original)
    def wrapped(self: models.Model, *args: Any, **kwargs: Any) -> Any:
        using = kwargs.get("using") or (args[0] if method == "delete" and args else None)
        using = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            return original(self, *args, **kwargs)

    setattr(model, method, wrapped)
