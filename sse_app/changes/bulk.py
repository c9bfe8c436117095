"""Changes without signals of Django: `bulk_create`, `bulk_update` and `update`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Final, TypeVar

from django.db import NotSupportedError, connections, models
from django.db.models import Q, QuerySet

from .pending import (
    batches,
    deleted_together,
    published_together,
    suppress_changes,
    suppressed,
)
from .publication import Publication, is_expression, publications_of

Row = TypeVar("Row", bound=models.Model)
#: The rows before a change, by primary key.
Before = Mapping[Any, models.Model]


class ChangesQuerySet(QuerySet[Row]):
    """A queryset whose bulk operations publish the changes of a model with `@publish_changes`.

    Each call is one transaction on the rows' database. It reads the rows in statements of at most
    500 and locks them if the database supports row locks; their events are published together at
    the end. For a model without the decorator, and within `suppress_changes()`, the methods are
    Django's. The async twins do the same.
    """

    def bulk_create(
        self,
        objs: Iterable[Row],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[Row]:
        """Insert rows and publish `created`, or `updated` for rows changed by `update_conflicts`.

        Raises `NotSupportedError`, and nothing is written, if the written rows can't be known: for
        `ignore_conflicts`, for `update_conflicts` without `unique_fields`, and on a database that
        does not return the keys.
        """
        insert = super().bulk_create
        options = (batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields)
        if not self._publications():
            return insert(objs, *options)
        if ignore_conflicts or (update_conflicts and not unique_fields):
            raise NotSupportedError(_UNKNOWN_ROWS)
        objs = list(objs)
        self._for_write = True
        with published_together(self.db):
            before = _by_key(self._conflicting(objs, unique_fields) if unique_fields else [])
            with suppress_changes():
                made = insert(objs, *options)
            self._require_keys(made)
            if update_conflicts or _have_expressions(made):
                self._publish_rows([*dict.fromkeys(one.pk for one in made)], before, created=True)
            else:
                self._publish_created(made)
        return made

    def bulk_update(
        self, objs: Iterable[Row], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """Update the rows and publish `updated` for each one that changed."""
        change = super().bulk_update
        if not self._publications():
            return change(objs, fields, batch_size)
        objs = list(objs)
        self._for_write = True
        with published_together(self.db):
            keys = {one.pk: None for one in objs if one.pk is not None}  # unique, in order
            found = [
                row for batch in batches(keys) for row in self._locked(self.filter(pk__in=batch))
            ]
            before = _by_key(found)
            with suppress_changes():
                count = change(objs, fields, batch_size)
            self._publish_rows([row.pk for row in found], before)
        return count

    def update(self, **values: Any) -> int:
        """Update the rows and publish `updated` for each one that changed.

        The call reads the keys of the rows that match, and then updates these rows by key, many
        rows in several statements. Raises `NotSupportedError` for a new primary key.
        """
        if not self._publications() or self.query.is_sliced or self.query.combinator:
            return super().update(**values)  # Django refuses slices and combinators.
        if {"pk", self.model._meta.pk.name, self.model._meta.pk.attname} & set(values):
            raise NotSupportedError(
                "update() of a primary key can't be published: for readers it would be another "
                "row. Call it within suppress_changes() and publish the events yourself."
            )
        self._for_write = True
        with published_together(self.db):
            found = self._locked(self)
            before = _by_key(found)
            keys = [row.pk for row in found]
            with suppress_changes():
                count = sum(self._of(batch).update(**values) for batch in self._batches(keys))
            self._result_cache = None
            self._publish_rows(keys, before)
        return count

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows and publish `deleted` for each, and for each row deleted by a cascade."""
        if not self._publications():
            return super().delete()
        self._for_write = True
        with deleted_together(self.db):
            return super().delete()

    def _publications(self) -> list[Publication]:
        return [] if suppressed() else publications_of(self.model)

    def _rows(self) -> QuerySet[Row]:
        rows: QuerySet[Row] = self.model._base_manager.using(self.db)
        return rows

    def _batches(self, keys: list[Any]) -> list[list[Any]]:
        # Annotations need this queryset's filter, so all keys are in one statement: the first of
        # several could change which rows the next one matches. Without keys there is one empty
        # batch, so that Django checks the values.
        return [keys] if self.query.annotations else [*batches(keys)] or [[]]

    def _of(self, keys: Sequence[Any]) -> QuerySet[Row]:
        # Only this queryset has the annotations that values may name.
        rows: QuerySet[Row] = self if self.query.annotations else self._rows()
        return rows.filter(pk__in=keys)

    def _locked(self, rows: QuerySet[Row]) -> list[Row]:
        """Return the rows with the chosen fields, read and locked in the order of their keys.

        The statement that locks has the filter, so that PostgreSQL checks it again for a row whose
        lock it had to wait for.
        """
        query = rows.query
        if (
            getattr(rows, "_fields", None) is not None
            or query.group_by is not None
            or query.distinct
        ):
            rows = self._rows().filter(pk__in=rows.order_by().values("pk"))  # can't be locked
        features = connections[self.db].features
        if features.has_select_for_update:
            parents = [link.name for link in self.model._meta.parents.values() if link]
            of = ("self", *parents) if features.has_select_for_update_of else ()
            rows = rows.select_for_update(of=of, no_key=features.has_select_for_no_key_update)
        rows = rows.using(self.db).select_related(None).prefetch_related(None).order_by("pk")
        columns = [one.columns for one in self._publications()]
        if None not in columns:
            rows = rows.only("pk", *{name for names in columns for name in names or ()})
        return list({row.pk: row for row in rows}.values())  # A join may repeat a row.

    def _conflicting(self, objs: Sequence[Row], unique_fields: Collection[str]) -> list[Row]:
        """Read and lock the existing rows with the same unique fields as `objs`."""
        meta = self.model._meta
        names = [meta.pk.name if name == "pk" else name for name in unique_fields]
        columns = [meta.get_field(name).attname for name in names]  # type: ignore[union-attr]
        found: list[Row] = []
        for batch in batches(objs):
            same = [Q(**{name: getattr(one, name) for name in columns}) for one in batch]
            found += self._locked(self._rows().filter(reduce(or_, same)))
        return found

    def _require_keys(self, made: Sequence[Row]) -> None:
        if any(one.pk is None for one in made):
            raise NotSupportedError(
                f"bulk_create() can't publish: {connections[self.db].display_name} does not "
                "return the keys of the rows. Set the keys first, or use suppress_changes()."
            )

    def _publish_created(self, made: Sequence[Row]) -> None:
        for publication in self._publications():
            for batch in batches(made):
                publication.publish(
                    [
                        change
                        for one in batch
                        for change in publication.created(one, publication.values(one, self.db))
                    ],
                    self.db,
                )

    def _publish_rows(self, keys: Sequence[Any], before: Before, created: bool = False) -> None:
        """Read the rows again and publish them: only the database has the values of expressions."""
        for batch in batches(keys):
            found = {row.pk: row for row in self._rows().filter(pk__in=batch)}
            rows = [found[key] for key in batch if key in found]
            for publication in self._publications():
                if publication.is_movable:
                    publication.load_related(rows)
                    publication.load_related([before[row.pk] for row in rows if row.pk in before])
                changes = [
                    change
                    for row in rows
                    for change in (
                        publication.created(row, publication.in_memory(row))
                        if created and row.pk not in before
                        else publication.updated(row, before[row.pk], publication.in_memory(row))
                    )
                ]
                publication.publish(changes, self.db)


# Copy Django's marks of these methods: templates must not call them, and managers don't have
# delete().
for _method in ("bulk_create", "bulk_update", "update", "delete"):
    vars(ChangesQuerySet)[_method].__dict__.update(vars(getattr(QuerySet, _method)))


class ChangesManager(
    models.Manager.from_queryset(ChangesQuerySet)  # type: ignore[misc]  # a base made at run time
):
    """A manager of `ChangesQuerySet`: `objects = ChangesManager()`."""


_UNKNOWN_ROWS: Final = (
    "bulk_create(ignore_conflicts=True), or update_conflicts=True without unique_fields, can't "
    "publish: the database does not say which rows it wrote. Give unique_fields, or call it within "
    "suppress_changes() and publish the events yourself."
)


def _by_key(rows: Iterable[models.Model]) -> Before:
    return {row.pk: row for row in rows}


def _have_expressions(rows: Iterable[models.Model]) -> bool:
    kinds = {type(value) for row in rows for value in row.__dict__.values()}
    return any(map(is_expression, kinds))
