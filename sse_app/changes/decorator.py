"""Model changes as events: `@publish_changes` on a model.

Bulk operations run no `save()` and send no signals: `ChangesManager` and `ChangesQuerySet` publish
those.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from string import Formatter
from typing import Any, ParamSpec, TypeVar, cast

from django.core.exceptions import FieldDoesNotExist
from django.db import models, router
from django.db.models.signals import class_prepared, post_delete, pre_delete

from ..protocol.events import validate_name, validate_published
from ..protocol.groups import validate_group
from .bulk import ChangesManager, ChangesQuerySet
from .many_to_many import connect_m2m
from .pending import deleted_together, pending_on, suppress_changes, suppressed
from .publication import (
    Groups,
    Publication,
    Serializer,
    as_names,
    publications_of,
    register,
)
from .saves import publish_saves

__all__ = ["ChangesManager", "ChangesQuerySet", "publish_changes", "suppress_changes"]

Model = TypeVar("Model", bound=models.Model)
_Options_ = ParamSpec("_Options_")
_Decorator = TypeVar("_Decorator")


def _parenthesized(decorator: Callable[_Options_, _Decorator]) -> Callable[_Options_, _Decorator]:
    """Let `decorator` say how to call it, where it is used without parentheses or groups."""

    @functools.wraps(decorator)
    def called(*args: _Options_.args, **kwargs: _Options_.kwargs) -> _Decorator:
        if args or "groups" not in kwargs:
            names = [getattr(model, "__name__", repr(model)) for model in args]
            raise TypeError(
                f"@publish_changes{' of ' + names[0] if names else ''} needs parentheses and the "
                "groups that get the events, as in @publish_changes(groups=['orders'])."
            )
        return decorator(*args, **kwargs)

    return called


@_parenthesized
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
    deleted: str | None = None,
) -> Callable[[type[Model]], type[Model]]:
    """Publish `<name>.created`, `.updated` and `.deleted` for the decorated model.

    `groups`: one or several names or patterns such as `"order.{pk}"`, or a callable of the
    instance that returns names. A name that is not a valid group name, such as one made of a text
    of users, is encoded by `group_name()`. A row that moves to other groups is `deleted` in those
    that it left. `fields`: the fields in the event, `{"pk": …, "fields": {…}}`; without them it has
    `{"pk": …}` only. An update also has `changed`, `{field: [old, new]}`; with `only_if_changed` it
    is published only if a chosen field or a group changed. `serializer(instance)` replaces the
    data; a serializer class of Django REST framework is accepted too, which gets the context
    `{"request": None}`, and so is the dotted path of either, imported at the first event. Data
    beyond `MAX_EVENT_BYTES` is replaced by `{"pk": …, "omitted": [names]}`. `name`: by default the
    model's name in lower case. `related`: relations that groups or data read, named as for
    `prefetch_related()` and loaded together for the rows of a bulk operation. `m2m`: many-to-many
    fields for which `<name>.<field>.changed` is published. `raw`: also publish rows that `loaddata`
    loads. `deleted`: a field that is set in rows that count as deleted, such as `"deleted_at"`;
    a row is published as `deleted` when it is set, and as `created` when it is empty again.

    Row and event are one transaction, and receivers of `post_save` are called after it. Proxies
    and models that inherit from the model publish too. Bulk operations run no `save()`, so they
    publish only with `ChangesManager` or `ChangesQuerySet`. An update costs one query more, which
    reads the old values, if there are `fields`, if `deleted` is given, or if the groups can change.
    Raises `FieldDoesNotExist` for an unknown name in `fields`, `related`, `m2m` or `deleted`,
    `TypeError` for an abstract model or a `serializer` that can't be called, and `ValueError` for
    an invalid `name` or for patterns in `groups` that can't be filled.
    """
    flags = only_if_changed, name, related, m2m, raw, deleted
    return _Options(groups, fields, serializer, *flags).decorate


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
        deleted: str | None,
    ) -> None:
        path = isinstance(serializer, str) and "." in serializer.strip(".")
        if not (serializer is None or path or callable(serializer)):
            raise TypeError(
                f"@publish_changes(serializer={serializer!r}): give a callable of the instance, a "
                "serializer class of Django REST framework, or the dotted path of one of them."
            )
        self.groups, self.serializer, self.name = groups, serializer, name
        self.fields, self.related, self.m2m = as_names(fields), as_names(related), as_names(m2m)
        self.only_if_changed, self.raw = only_if_changed, raw
        self.deleted = () if deleted is None else (deleted,)

    def decorate(self, model: type[Model]) -> type[Model]:
        """Publish the changes of `model`; return it."""
        publication = self._publication(model)
        many = [one for one in model._meta.many_to_many if isinstance(one, models.ManyToManyField)]
        m2m_fields = _chosen(model, "m2m", self.m2m, many)
        register(publication)
        senders: list[type[models.Model]] = [model, *_descendants(model)]
        for sender in senders:
            _Deletes(sender, publication).connect()
        for field in m2m_fields.values():
            connect_m2m(publication, field)
        publish_saves(model, publication)
        _publish_deletes_together(model)
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
        groups = self.groups if callable(self.groups) else _patterns(model, self.groups)
        fields = _chosen(model, "fields", self.fields, meta.concrete_fields)
        deleted = _chosen(model, "deleted", self.deleted, meta.concrete_fields)
        moved_by = _movers(model, groups)
        columns = None
        if moved_by is not None and not (moved_by and self.serializer):
            columns = frozenset({*fields, *deleted, *moved_by})
        return Publication(
            model,
            _prefix(self.name or meta.model_name),
            groups,
            fields,
            self.serializer,
            self.only_if_changed,
            self.related,
            self.raw,
            next(iter(deleted.values()), None),
            columns,
            is_movable=moved_by is None or bool(moved_by),
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
        for attribute in _attributes(pattern):
            if not hasattr(model, attribute):
                raise ValueError(
                    f"{option}: {pattern!r} names {attribute!r}, but {model.__name__} has none. "
                    "Name a field or property, or give a callable of the instance."
                )
    return patterns


def _attributes(pattern: str) -> list[str]:
    """Return the attributes of the instance that the pattern of a group names."""
    named = [name for _, name, _, _ in Formatter().parse(pattern) if name is not None]
    return [re.split(r"[.\[]", name, maxsplit=1)[0] for name in named]


def _movers(model: type[models.Model], groups: Groups) -> set[str] | None:
    """Return the columns on which the groups of a row depend; None if that is not known.

    Without the primary key, which a row keeps.
    """
    if callable(groups):
        return None
    named = {attribute for pattern in as_names(groups) for attribute in _attributes(pattern)}
    found = set[str]()
    for field in model._meta.concrete_fields:
        if named & {field.name, field.attname}:
            named -= {field.name, field.attname}
            found |= set() if field.primary_key else {field.name}
    return found if named <= {"pk"} else None


def _chosen(
    model: type[models.Model], option: str, names: Iterable[str], fields: Iterable[Any]
) -> dict[str, Any]:
    legal = {field.name: field for field in fields}
    kind = {"related": "relation", "m2m": "ManyToManyField"}.get(option, "column")
    for name in names:
        if name not in legal:
            other = name in {field.name for field in model._meta.many_to_many}
            raise FieldDoesNotExist(
                f"@publish_changes({option}=…) names {name!r}, which is not a {kind} of "
                f"{model.__name__}. It has: {', '.join(sorted(legal)) or 'none'}."
                f"{_DECORATE_THROUGH if option == 'm2m' and other else ''}"
            )
    return {name: legal[name] for name in names}


#: Such as the tags of django-taggit.
_DECORATE_THROUGH = (
    " The rows of another kind of relation are saved and deleted one by one: decorate the model of "
    "these rows, publish_changes(groups=…)(Model.field.through)."
)


class _Deletes:
    """Receivers of Django's signals that publish the deleted rows of one model.

    `sender` is the model of the publication, a proxy of it, or a model that inherits from it.
    """

    def __init__(self, sender: type[models.Model], publication: Publication) -> None:
        self._sender = sender
        self._publication = publication

    def connect(self) -> None:
        """Connect the receivers for as long as the process lives."""
        # Deleting a row that inherits, Django also sends the signals of the inherited row.
        if self._sender._meta.concrete_model is self._publication.model._meta.concrete_model:
            pre_delete.connect(self._before, sender=self._sender, weak=False)
            post_delete.connect(self._after, sender=self._sender, weak=False)

    def _before(self, sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
        pending = pending_on(using, deletes=True)
        if pending is not None:
            pending.expect(self._publication, instance)

    def _after(self, sender: Any, instance: models.Model, using: str, **kwargs: Any) -> None:
        publication = self._publication
        pending = pending_on(using)
        if pending is not None:
            # Django deletes rows after the rows that refer to them, so the related rows of these
            # instances still exist.
            publication.load_related(pending.deleting.pop(publication, []))
        if not suppressed():
            publication.publish(publication.removed(instance, using), using)
        if pending is not None:
            pending.was_deleted()


def _descendants(model: type[models.Model]) -> list[type[models.Model]]:
    return [one for child in model.__subclasses__() for one in (child, *_descendants(child))]


def _inherit(sender: type[models.Model], **kwargs: Any) -> None:
    for publication in publications_of(sender):
        _Deletes(sender, publication).connect()


class_prepared.connect(_inherit, dispatch_uid="sse_app.changes")


def _publish_deletes_together(model: Any) -> None:
    """Publish the rows of one `delete()` together, those of its cascades too."""
    original = model.delete

    @functools.wraps(original)
    def delete(self: models.Model, *args: Any, **kwargs: Any) -> Any:
        # The arguments stay as they are: trees of django-treebeard take none.
        using = args[0] if args else kwargs.get("using")
        with deleted_together(using or router.db_for_write(type(self), instance=self)):
            return original(self, *args, **kwargs)

    model.delete = delete
