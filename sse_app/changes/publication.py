"""How the changes of a model are published: to which groups, and with which data."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db import connections, models
from django.db.models import prefetch_related_objects
from django.utils.module_loading import import_string

from ..protocol.groups import Group, group_name
from ..runtime.rare_logs import RareLog
from ..runtime.telemetry import log_fields
from .content import as_read, event_text
from .pending import batches, publish_together

Groups = str | Iterable[str] | Callable[[Any], Group | Iterable[Group]]
#: A callable of the instance, a serializer class of Django REST framework, or the path of either.
Serializer = str | Callable[[Any], Any]

if TYPE_CHECKING:
    Field = models.Field[Any, Any]

_left_log = RareLog(logging.getLogger("sse_app"))


class Change(NamedTuple):
    """A row that was created, updated or deleted, with the values for its event.

    `groups`: those that get the event; None for the groups of the instance.
    """

    instance: models.Model
    verb: str
    values: Mapping[str, Any]
    changed: Mapping[str, Any] | None = None
    groups: Collection[str] | None = None


@dataclass(frozen=True, eq=False)
class Publication:
    """How the changes of one model are published.

    `columns`: the fields whose old values an update needs, None for all. `is_movable`: an update
    may change the groups of a row. `deleted`: the field that is set in rows that count as deleted.
    """

    model: type[models.Model]
    prefix: str
    groups: Groups
    fields: Mapping[str, Field]
    serializer: Serializer | None
    only_changed: bool
    related: tuple[str, ...] = ()
    raw: bool = False
    deleted: Field | None = None
    columns: frozenset[str] | None = frozenset()
    is_movable: bool = False

    # --- rows and their values ---

    def key_of(self, instance: models.Model) -> Any:
        """Return the key of the model's row; a model that inherits may have another primary key."""
        key = self.model._meta.pk
        return instance.pk if key is None else instance.__dict__.get(key.attname, instance.pk)

    def stored(self, keys: Collection[Any], using: str) -> dict[Any, models.Model]:
        """Return the rows by key, with `columns`, as the database has them now; they are locked."""
        # Not by a manager of the project, which may hide rows or return other models.
        rows: models.QuerySet[Any] = models.QuerySet(self.model).using(using).order_by("pk")
        features = connections[using].features
        if features.has_select_for_update:
            # Not the key: rows that refer to this one can be inserted meanwhile.
            rows = rows.select_for_update(no_key=features.has_select_for_no_key_update)
        if self.columns is not None:
            rows = rows.only("pk", *self.columns)
        return {row.pk: row for batch in batches(keys) for row in rows.filter(pk__in=batch)}

    def ignores(self, written: Collection[str] | None) -> bool:
        """Whether nothing is published for a save of these fields; None are all fields."""
        if written is None or self.columns is None or not (self.fields and self.only_changed):
            return False
        read: Any = self.model._meta.get_field
        fields = [read(name) for name in self.columns]
        return not any(field.generated or _is_among(field, written) for field in fields)

    def in_memory(self, instance: models.Model) -> dict[str, Any]:
        """Return the chosen fields of the instance; deferred ones are left out and not loaded."""
        have = instance.__dict__
        return {n: have[f.attname] for n, f in self.fields.items() if f.attname in have}

    def values(self, instance: models.Model, using: str) -> dict[str, Any]:
        """Return the chosen fields of the instance as a read from the database gives them."""
        found = self.in_memory(instance)
        return {name: as_read(self.fields[name], value, using) for name, value in found.items()}

    def saved(
        self,
        instance: models.Model,
        old: models.Model | None,
        using: str,
        *,
        created: bool,
        written: Collection[str] | None,
    ) -> list[Change]:
        """Return the changes to publish for a save; `written`: the saved fields, None for all."""
        if self._is_stale(instance, created):
            rows: models.QuerySet[Any] = models.QuerySet(type(instance))
            row = rows.using(using).get(pk=instance.pk)
            values = self.values(row, using)
        else:
            row = self._written_to(old, instance, written)
            values = {} if old is None else self.in_memory(old)
            for name, value in self.values(instance, using).items():
                if name not in values or _is_among(self.fields[name], written):
                    values[name] = value
        return self.created(row, values) if created else self.updated(row, old, values)

    def _is_stale(self, instance: models.Model, created: bool) -> bool:
        """Whether only the database has a value that the event needs."""
        fields: Iterable[Field] = instance._meta.concrete_fields
        if self.columns is not None and self.serializer is None:
            fields = (field for field in fields if field.name in self.columns)
        have = instance.__dict__
        return any(
            is_expression(have.get(field.attname))
            # Before Django 6.0 a generated field is read again after an INSERT only.
            or (field.generated and (not created or field.attname not in have))
            for field in fields
        )

    def _written_to(
        self, old: models.Model | None, instance: models.Model, written: Collection[str] | None
    ) -> models.Model:
        """Return the instance; if not all of it was saved and groups depend on it, the real row."""
        same = old is not None and old._meta.concrete_model is instance._meta.concrete_model
        if old is None or written is None or not (self.is_movable and same):
            return instance
        row = copy.copy(old)
        for field in row._meta.concrete_fields:
            if _is_among(field, written) and field.attname in instance.__dict__:
                setattr(row, field.attname, instance.__dict__[field.attname])
        _share_relations(instance, row)
        return row

    # --- changes ---

    def created(self, row: models.Model, values: Mapping[str, Any]) -> list[Change]:
        """Return the change of a new row."""
        return [Change(row, "created", values)] if self._shows(row) else []

    def removed(self, row: models.Model, using: str) -> list[Change]:
        """Return the change of a row that was deleted."""
        return [Change(row, "deleted", self.values(row, using))] if self._shows(row) else []

    def updated(
        self, row: models.Model, old: models.Model | None, values: Mapping[str, Any]
    ) -> list[Change]:
        """Return the changes to publish for an update of `old`, None if it was not read, to `row`.

        A row that has left a group is deleted for the readers of that group, who must not see
        the new values.
        """
        before = {} if old is None else self.in_memory(old)
        if old is not None and not self._shows(old):
            return self.created(row, values)
        if not self._shows(row):
            gone_row = old if self.is_movable else row
            return [] if gone_row is None or old is None else [Change(gone_row, "deleted", before)]
        changed = {
            name: [before.get(name), value]
            for name, value in values.items()
            if name not in before or before[name] != value
        }
        left, groups = self._moved(row, old)
        gone = [Change(old, "deleted", before, groups=left)] if old is not None and left else []
        if changed or groups is not None or not self.fields or not self.only_changed:
            return [*gone, Change(row, "updated", values, changed, groups)]
        return gone

    def _shows(self, row: models.Model) -> bool:
        return self.deleted is None or not row.__dict__.get(self.deleted.attname)

    def _moved(
        self, row: models.Model, old: models.Model | None
    ) -> tuple[Collection[str], Collection[str] | None]:
        """Return the groups that the row has left, and its groups if these have changed."""
        if old is None or not self.is_movable or not _differ(old, row):
            return (), None
        now = list(self.groups_of(row))
        _share_relations(row, old)
        try:
            before = list(self.groups_of(old))
        except Exception as error:
            # A draft may be no row for the function: nothing has been published of it.
            _left_log(
                "The groups of a %s before its change are not known (%r).",
                self.prefix,
                error,
                extra=log_fields(error=error),
            )
            return (), None
        left = [group for group in before if group not in now]
        return left, now if set(before) != set(now) else None

    # --- publishing ---

    def publish(self, changes: Sequence[Change], using: str) -> None:
        """Publish the changes in one round trip, or together with the pending events."""
        self.load_related([change.instance for change in changes])
        data_of = self._data_of()
        publish_together(
            (
                (group, name, text)
                for change in changes
                if (groups := self._groups_for(change))
                for name in [f"{self.prefix}.{change.verb}"]
                for text in [self._text(name, change, data_of(change))]  # once for all groups
                for group in groups
            ),
            using,
        )

    def load_related(self, instances: Sequence[models.Model]) -> None:
        """Load the `related` rows of several instances together; a single one loads them on use."""
        if self.related and len(instances) > 1:
            for batch in batches(instances):
                prefetch_related_objects(batch, *self.related)

    def groups_of(self, instance: models.Model) -> Collection[str]:
        """Return the groups to which events of the instance are published."""
        if callable(self.groups):
            return [group_name(name) for name in as_names(self.groups(instance))]
        if not self._patterns:
            return as_names(self.groups)
        values = _Attributes(instance)
        return [group_name(pattern.format_map(values)) for pattern in as_names(self.groups)]

    @cached_property
    def _patterns(self) -> bool:
        return not callable(self.groups) and any("{" in one for one in as_names(self.groups))

    def _groups_for(self, change: Change) -> Collection[str]:
        return self.groups_of(change.instance) if change.groups is None else change.groups

    def _text(self, name: str, change: Change, data: Any) -> str:
        own = self.serializer is None
        names: Iterable[Any] = change.values if own else data if isinstance(data, dict) else ()
        parts = [str(one) for one in names if one != "pk"]
        return event_text(name, data, self.key_of(change.instance), parts, any_type=own)

    def _data_of(self) -> Callable[[Change], Any]:
        if self.serializer is None:
            return self._columns_of
        serialize = self._serialize
        if hasattr(serialize, "to_representation"):
            # A serializer of Django REST framework: one for all rows, as with its many=True.
            serialize = serialize(context={"request": None}).to_representation
        return lambda change: serialize(change.instance)

    @cached_property
    def _serialize(self) -> Any:
        path = self.serializer
        return import_string(path) if isinstance(path, str) else path

    def _columns_of(self, change: Change) -> dict[str, Any]:
        data: dict[str, Any] = {"pk": self.key_of(change.instance)}
        if self.fields:
            data["fields"] = change.values
            if change.changed is not None:
                data["changed"] = change.changed
        return data


def _share_relations(source: models.Model, target: models.Model) -> None:
    """Give `target` the related rows that `source` has loaded and that both refer to."""
    have, wanted = source.__dict__, target.__dict__
    for field in target._meta.concrete_fields:
        name = field.attname
        same = name in wanted and name in have and have[name] == wanted[name]
        if same and isinstance(field, models.ForeignKey) and field.is_cached(source):
            field.set_cached_value(target, field.get_cached_value(source))


def _is_among(field: Field, written: Collection[str] | None) -> bool:
    return written is None or field.name in written or field.attname in written


def _differ(old: models.Model, row: models.Model) -> bool:
    have, missing = row.__dict__, object()
    return any(
        old.__dict__.get(name, missing) != have.get(name, missing)
        for name in (field.attname for field in old._meta.concrete_fields)
        if name in old.__dict__
    )


_registered: defaultdict[type[models.Model], list[Publication]] = defaultdict(list)


def register(publication: Publication) -> None:
    """Add a publication, for `publications_of()`."""
    _registered[publication.model].append(publication)


def publications_of(model: type[models.Model]) -> list[Publication]:
    """Return the publications of a model: its own, and those of the models it inherits from."""
    return [one for base in model.__mro__ if base in _registered for one in _registered[base]]


def is_expression(value: object) -> bool:
    """Return whether the database computes the value, such as `F("total") + 1`."""
    return hasattr(value, "resolve_expression")


def as_names(names: Group | Iterable[Group]) -> tuple[Any, ...]:
    """Return one name or several names as a tuple."""
    return (names,) if isinstance(names, Group) else tuple(names)


class _Attributes(dict[str, Any]):
    """The attributes of an instance, which patterns such as `"order.{pk}"` may name."""

    def __init__(self, instance: models.Model) -> None:
        super().__init__()
        self._instance = instance

    def __missing__(self, name: str) -> Any:
        return getattr(self._instance, name)
