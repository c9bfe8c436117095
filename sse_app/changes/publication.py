"""What a model publishes of its changes: to which groups, and with which data."""

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

#: The most rows that one statement of the app's own reads or writes.
ROWS: Final = 500
#: The most events of one call that wait in memory to be published together.
MAX_PENDING: Final = 10_000

_suppressed: ContextVar[bool] = ContextVar("sse_app_changes_suppressed", default=False)
_pending: ContextVar[Pending | None] = ContextVar("sse_app_changes_pending", default=None)


class Change(NamedTuple):
    """A row that was made, changed or deleted, and what its event says."""

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
        """The key of the model's row; a model that inherits it may have another one of its own."""
        key = self.model._meta.pk
        return instance.pk if key is None else instance.__dict__.get(key.attname, instance.pk)

    def rows(self, keys: Collection[Any], using: str) -> dict[Any, dict[str, Any]]:
        """The chosen fields by key, as they are in the database; the rows are locked."""
        names = [column.attname for column in self.fields.values()]
        found: dict[Any, dict[str, Any]] = {}
        for some in batches(keys):
            rows = self.model._base_manager.using(using).filter(pk__in=some).order_by("pk")
            if connections[using].features.has_select_for_update:
                rows = rows.select_for_update()
            for key, *row in rows.values_list("pk", *names):
                found[key] = dict(zip(self.fields, row, strict=True))
        return found

    def in_memory(self, instance: models.Model) -> dict[str, Any]:
        """The chosen fields as the instance has them; deferred ones are left out, not loaded."""
        have = instance.__dict__
        return {n: have[f.attname] for n, f in self.fields.items() if f.attname in have}

    def written(self, instance: models.Model, before: Mapping[str, Any], using: str) -> Any:
        """The chosen fields after a save that wrote what differs from `before` in memory."""
        values = {**before, **self.in_memory(instance)}
        if any(is_expression(value) for value in values.values()):
            key = self.key_of(instance)
            return self.rows([key], using).get(key, {})  # F("total") + 1: the database knows
        return self.as_read(values)

    def as_read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values as the database will give them: a number in a str is a number there."""
        return {name: self.fields[name].to_python(value) for name, value in values.items()}

    def updated(
        self, instance: models.Model, before: Mapping[str, Any], values: Mapping[str, Any]
    ) -> Change | None:
        """The change from `before` to `values`; None if nothing is to be published of it."""
        changed = {
            name: [before.get(name), value]
            for name, value in values.items()
            if name not in before or before[name] != value
        }
        if changed or not self.fields or not self.only_changed:
            return Change(instance, "updated", values, changed)
        return None

    def publish(self, changes: Sequence[Change], using: str) -> None:
        """Publish the changes in one round trip, or with what is being published_together."""
        self.load_related([change.instance for change in changes])
        data_of = self._data_of()
        groups_of = self._groups_of()
        publish_together(
            (
                (group, f"{self.prefix}.{change.verb}", text)
                for change in changes
                for text in [to_text(data_of(change))]  # once for all groups
                for group in groups_of(change.instance)
            ),
            using,
        )

    def load_related(self, instances: Sequence[models.Model]) -> None:
        """Load what groups and data follow, for all at once; a single one loads it when asked."""
        if self.related and len(instances) > 1:
            for some in batches(instances):
                prefetch_related_objects(some, *self.related)

    def groups_of(self, instance: models.Model) -> Iterable[str]:
        """The groups that hear of the instance."""
        return self._groups_of()(instance)

    def _groups_of(self) -> Callable[[models.Model], Iterable[str]]:
        if isinstance(self.groups, str):
            given: Collection[str] = [self.groups]
        elif callable(self.groups):
            ask = self.groups

            def asked(instance: models.Model) -> Iterable[str]:
                return _filled(as_names(ask(instance)), instance)

            return asked
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
            # Django REST framework's: made once for all rows, as its own many=True does it.
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
    """The events of one call on the rows of one database, and the rows it is about to delete."""

    using: str
    savepoints: list[str] = field(default_factory=list)
    events: list[Triple] = field(default_factory=list)
    deleting: defaultdict[Publication, list[models.Model]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, events: Iterable[Triple]) -> None:
        """Add events; many are published at once, so that memory is bounded."""
        events = iter(events)
        while some := list(islice(events, MAX_PENDING)):
            if len(self.events) + len(some) > MAX_PENDING:
                self.flush()
            self.events += some

    def flush(self, *, last: bool = False) -> None:
        """Publish what was published_together; `last`: the transaction is about to commit."""
        events, self.events = self.events, []
        if events:
            publish_in_transaction(events, using=self.using, last=last)


@contextmanager
def published_together(using: str) -> Iterator[None]:
    """Publish the changes within the block at its end, together, and nothing if it raises.

    The rows and the events are one transaction on the database `using`.
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
    """What is being published_together for the database `using` in this thread or task.

    None within a savepoint of its own: what is published there must go if that is rolled back.
    """
    pending = _pending.get()
    if pending is None or pending.using != using:
        return None
    return pending if pending.savepoints == _savepoints(using) else None


def _savepoints(using: str) -> list[str]:
    # None stands for a block without one.
    return [one for one in connections[using].savepoint_ids if one]


def publish_together(events: Iterable[Triple], using: str) -> None:
    """Publish events with what is being published_together on `using`, else now."""
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
    """Whether this thread or task is within `suppress_changes()`."""
    return _suppressed.get()


_registered: defaultdict[type[models.Model], list[Publication]] = defaultdict(list)


def register(publication: Publication) -> None:
    """Let `publications_of()` know of a publication."""
    _registered[publication.model].append(publication)


def publications_of(model: type[models.Model]) -> list[Publication]:
    """How the changes of a model are published, by its own rules and by those it inherits."""
    return [one for base in model.__mro__ if base in _registered for one in _registered[base]]


def is_expression(value: object) -> bool:
    """Whether only the database can tell the value, as of `F("total") + 1`."""
    return hasattr(value, "resolve_expression")


def batches(items: Collection[Item]) -> Iterator[list[Item]]:
    """The items in lists of at most `ROWS`."""
    rest = iter(items)
    while some := list(islice(rest, ROWS)):
        yield some


def as_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def _filled(patterns: Iterable[str], instance: models.Model) -> Iterable[str]:
    values = _Attributes(instance)
    return [pattern.format_map(values) for pattern in patterns]


class _Attributes(dict[str, Any]):
    """What `"order.{pk}"` may name: any attribute of the instance."""

    def __init__(self, instance: models.Model) -> None:
        super().__init__()
        self._instance = instance

    def __missing__(self, name: str) -> Any:
        return getattr(self._instance, name)
