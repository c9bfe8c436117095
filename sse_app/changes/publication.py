"""How the changes of a model are published: to which groups, and with which data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from django.db import connections, models, transaction
from django.db.models import prefetch_related_objects

from ..protocol.events import to_text
from ..publishing.publish import publish_in_transaction

Groups = str | Iterable[str] | Callable[[Any], str | Iterable[str]]
#: A callable of the instance, or a serializer class of Django REST framework.
Serializer = Callable[[Any], Any]
Triple = tuple[str, str, object]
Item = TypeVar("Item")

if TYPE_CHECKING:
    Field = models.Field[Any, Any]

#: The most rows that one statement of this wing reads or writes.
ROWS: Final = 500
#: The most events of one call that wait in memory for being published together.
MAX_PENDING: Final = 10_000

_suppressed: ContextVar[bool] = ContextVar("sse_app_changes_suppressed", default=False)
_pending: ContextVar[Pending | None] = ContextVar("sse_app_changes_pending", default=None)


class Change(NamedTuple):
    """A row that was created, updated or deleted, with the values for its event."""

    instance: models.Model
    verb: str
    values: Mapping[str, Any]
    changed: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Publication:
    """How the changes of one model are published."""

    model: type[models.Model]
    prefix: str
    groups: Groups
    fields: Mapping[str, Field]
    serializer: Serializer | None
    only_changed: bool
    related: tuple[str, ...] = ()
    raw: bool = False

    def key_of(self, instance: models.Model) -> Any:
        """Return the key of the model's row; a model that inherits may have another primary key."""
        key = self.model._meta.pk
        return instance.pk if key is None else instance.__dict__.get(key.attname, instance.pk)

    def rows(self, keys: Collection[Any], using: str) -> dict[Any, dict[str, Any]]:
        """Return the chosen fields by key, read from the database; the rows are locked."""
        names = [column.attname for column in self.fields.values()]
        found: dict[Any, dict[str, Any]] = {}
        for batch in batches(keys):
            rows = self.model._base_manager.using(using).filter(pk__in=batch).order_by("pk")
            features = connections[using].features
            if features.has_select_for_update:
                # Not the key: rows that refer to this one can be inserted meanwhile.
                rows = rows.select_for_update(no_key=features.has_select_for_no_key_update)
            for key, *row in rows.values_list("pk", *names):
                found[key] = dict(zip(self.fields, row, strict=True))
        return found

    def in_memory(self, instance: models.Model) -> dict[str, Any]:
        """Return the chosen fields of the instance; deferred ones are left out and not loaded."""
        have = instance.__dict__
        return {n: have[f.attname] for n, f in self.fields.items() if f.attname in have}

    def written(self, instance: models.Model, before: Mapping[str, Any], using: str) -> Any:
        """Return the chosen fields after a save: `before` with the values of the instance."""
        values = {**before, **self.in_memory(instance)}
        if any(is_expression(value) for value in values.values()):
            key = self.key_of(instance)
            return self.rows([key], using).get(key, {})  # Only the database has the values.
        return self.as_read(values)

    def as_read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values with the types that a read gives: `"5"` in an IntegerField is 5."""
        return {name: self.fields[name].to_python(value) for name, value in values.items()}

    def updated(
        self, instance: models.Model, before: Mapping[str, Any], values: Mapping[str, Any]
    ) -> Change | None:
        """Return the change from `before` to `values`; None if it is not to be published."""
        changed = {
            name: [before.get(name), value]
            for name, value in values.items()
            if name not in before or before[name] != value
        }
        if changed or not self.fields or not self.only_changed:
            return Change(instance, "updated", values, changed)
        return None

    def publish(self, changes: Sequence[Change], using: str) -> None:
        """Publish the changes in one round trip, or together with the pending events."""
        self.load_related([change.instance for change in changes])
        data_of = self._data_of()
        groups_of = self._groups_of()
        publish_together(
            (
                (group, f"{self.prefix}.{change.verb}", text)
                for change in changes
                for text in [to_text(data_of(change))]  # encoded once for all groups
                for group in groups_of(change.instance)
            ),
            using,
        )

    def load_related(self, instances: Sequence[models.Model]) -> None:
        """Load the `related` rows of several instances together; a single one loads them on use."""
        if self.related and len(instances) > 1:
            for batch in batches(instances):
                prefetch_related_objects(batch, *self.related)

    def groups_of(self, instance: models.Model) -> Iterable[str]:
        """Return the groups to which events of the instance are published."""
        return self._groups_of()(instance)

    def _groups_of(self) -> Callable[[models.Model], Iterable[str]]:
        if isinstance(self.groups, str):
            given: Collection[str] = [self.groups]
        elif callable(self.groups):
            groups = self.groups
            return lambda instance: _filled(as_names(groups(instance)), instance)
        else:
            given = tuple(self.groups)
        if any("{" in group or "}" in group for group in given):
            return lambda instance: _filled(given, instance)
        return lambda instance: given

    def _data_of(self) -> Callable[[Change], Any]:
        if self.serializer is None:
            return self._columns_of
        serialize = self.serializer
        if hasattr(serialize, "to_representation"):
            # A serializer of Django REST framework: one for all rows, as with its many=True.
            serialize = serialize().to_representation  # type: ignore[call-arg]
        return lambda change: serialize(change.instance)

    def _columns_of(self, change: Change) -> dict[str, Any]:
        data: dict[str, Any] = {"pk": self.key_of(change.instance)}
        if self.fields:
            data["fields"] = change.values
            if change.changed is not None:
                data["changed"] = change.changed
        return data


@dataclass
class Pending:
    """The events of one call that changes rows of one database, and the rows it will delete."""

    using: str
    savepoints: list[str] = field(default_factory=list)
    events: list[Triple] = field(default_factory=list)
    deleting: defaultdict[Publication, list[models.Model]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, events: Iterable[Triple]) -> None:
        """Add events; beyond `MAX_PENDING` earlier ones are published, to bound memory."""
        events = iter(events)
        while batch := list(islice(events, MAX_PENDING)):
            if len(self.events) + len(batch) > MAX_PENDING:
                self.flush()
            self.events += batch

    def flush(self, *, last: bool = False) -> None:
        """Publish the events; `last`: the transaction commits right after this."""
        events, self.events = self.events, []
        if events:
            publish_in_transaction(events, using=self.using, last=last)


@contextmanager
def published_together(using: str) -> Iterator[None]:
    """Publish the changes of the block together at its end; if it raises, publish nothing.

    Rows and events are one transaction on the database `using`.
    """
    outermost = not connections[using].in_atomic_block
    with transaction.atomic(using=using):
        pending = Pending(using, _savepoints(using))
        token = _pending.set(pending)
        try:
            yield
        finally:
            _pending.reset(token)
        pending.flush(last=outermost)


def pending_on(using: str) -> Pending | None:
    """Return the pending events for the database `using` in this thread or task, or None.

    None within a newer savepoint: an event of it must be rolled back with the savepoint.
    """
    pending = _pending.get()
    if pending is None or pending.using != using:
        return None
    return pending if pending.savepoints == _savepoints(using) else None


def _savepoints(using: str) -> list[str]:
    # Django lists None for an `atomic()` block without a savepoint.
    return [one for one in connections[using].savepoint_ids if one]


def publish_together(events: Iterable[Triple], using: str) -> None:
    """Publish events together with the pending ones on `using`; without those, now."""
    pending = pending_on(using)
    if pending is not None:
        pending.add(events)
    else:
        Pending(using, events=list(events)).flush()


@contextmanager
def suppress_changes() -> Iterator[None]:
    """Publish no model changes of this thread or task within the `with` block."""
    token = _suppressed.set(True)
    try:
        yield
    finally:
        _suppressed.reset(token)


def suppressed() -> bool:
    """Return whether this thread or task is within `suppress_changes()`."""
    return _suppressed.get()


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


def batches(items: Collection[Item]) -> Iterator[list[Item]]:
    """Yield the items in lists of at most `ROWS`."""
    rest = iter(items)
    while batch := list(islice(rest, ROWS)):
        yield batch


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return one name or several names as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def _filled(patterns: Iterable[str], instance: models.Model) -> Iterable[str]:
    values = _Attributes(instance)
    return [pattern.format_map(values) for pattern in patterns]


class _Attributes(dict[str, Any]):
    """The attributes of an instance, which patterns such as `"order.{pk}"` may name."""

    def __init__(self, instance: models.Model) -> None:
        super().__init__()
        self._instance = instance

    def __missing__(self, name: str) -> Any:
        return getattr(self._instance, name)
