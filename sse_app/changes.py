"""Model changes as events: `@publish_changes` on a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from django.core.exceptions import FieldDoesNotExist
from django.db import models, router, transaction
from django.db.models.signals import post_delete, post_init, post_save

from .events import validate_name
from .publishing import publish

Model = TypeVar("Model", bound=models.Model)
Groups = str | Iterable[str] | Callable[[Any], str | Iterable[str]]
Serializer = Callable[[Any], Any]

_SNAPSHOT: Final = "_sse_app_published"

_suppressed: ContextVar[bool] = ContextVar("sse_app_changes_suppressed", default=False)


@dataclass(frozen=True)
class _Publication:
    """How the changes of one model are published."""

    prefix: str
    groups: Groups
    fields: tuple[str, ...]
    serializer: Serializer | None
    only_changed: bool
    attnames: Mapping[str, str] = field(default_factory=dict)

    def groups_of(self, instance: models.Model) -> Iterator[str]:
        groups = self.groups(instance) if callable(self.groups) else self.groups
        values = _Values(instance)
        for group in [groups] if isinstance(groups, str) else groups:
            yield group.format_map(values)

    def values(self, instance: models.Model) -> dict[str, Any]:
        """The chosen fields as they are in memory; deferred ones are left out, not loaded."""
        return {
            name: instance.__dict__[attname]
            for name, attname in self.attnames.items()
            if attname in instance.__dict__
        }

    def data(self, instance: models.Model, changed: Mapping[str, Any] | None) -> Any:
        if self.serializer is not None:
            return self.serializer(instance)
        data: dict[str, Any] = {"pk": instance.pk}
        if self.fields:
            data["fields"] = self.values(instance)
        if changed is not None and self.fields:
            data["changed"] = changed
        return data

    def publish(
        self, instance: models.Model, verb: str, using: str, changed: Mapping[str, Any] | None
    ) -> None:
        data = self.data(instance, changed)
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
    publish nothing, but the admin's bulk delete does. Raises `ValueError` or
    `FieldDoesNotExist` for what does not fit the model.
    """
    chosen = (fields,) if isinstance(fields, str) else tuple(fields)

    def decorate(model: type[Model]) -> type[Model]:
        prefix = validate_name(name or model._meta.model_name)
        publication = _Publication(
            prefix, groups, chosen, serializer, only_if_changed, _attnames(model, chosen)
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


def _attnames(model: type[models.Model], fields: tuple[str, ...]) -> dict[str, str]:
    attnames = {}
    for name in fields:
        try:
            field = model._meta.get_field(name)
        except FieldDoesNotExist as error:
            known = ", ".join(sorted(f.name for f in model._meta.concrete_fields))
            raise FieldDoesNotExist(
                f"@publish_changes(fields=…) names {name!r}, which {model.__name__} does not have. "
                f"It has: {known}."
            ) from error
        attname = getattr(field, "attname", None)
        if attname is None or not getattr(field, "concrete", False):
            raise ValueError(f"@publish_changes(fields=…) names {name!r}, which is no column.")
        attnames[name] = attname
    return attnames


def _connect(model: type[models.Model], publication: _Publication) -> None:
    def remember(sender: Any, instance: models.Model, **kwargs: Any) -> None:
        instance.__dict__[_SNAPSHOT] = publication.values(instance)

    def saved(
        sender: Any, instance: models.Model, created: bool, raw: bool, using: str, **kwargs: Any
    ) -> None:
        before = instance.__dict__.get(_SNAPSHOT, {})
        now = publication.values(instance)
        written = kwargs.get("update_fields")
        changed = {
            name: [before.get(name), value]
            for name, value in now.items()
            if (written is None or name in written or publication.attnames[name] in written)
            and (name not in before or before[name] != value)
        }
        if not raw and not _suppressed.get():
            if created:
                publication.publish(instance, "created", using, None)
            elif changed or not publication.fields or not publication.only_changed:
                publication.publish(instance, "updated", using, changed)
        instance.__dict__[_SNAPSHOT] = {**before, **{name: now[name] for name in changed}}
        if created:
            instance.__dict__[_SNAPSHOT] = now

    def deleted(sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
        if not _suppressed.get():
            publication.publish(instance, "deleted", using, None)

    label = f"sse_app.{model._meta.label_lower}"
    post_init.connect(remember, sender=model, weak=False, dispatch_uid=label)
    post_save.connect(saved, sender=model, weak=False, dispatch_uid=label)
    post_delete.connect(deleted, sender=model, weak=False, dispatch_uid=label)


def _wrap_in_atomic(model: type[models.Model], method: str) -> None:
    """Make row and event one transaction in autocommit; a failed publish undoes the row."""
    original = getattr(model, method)

    @functools.wraps(original)
    def wrapped(self: models.Model, *args: Any, **kwargs: Any) -> Any:
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            return original(self, *args, **kwargs)

    setattr(model, method, wrapped)
