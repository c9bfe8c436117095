"""The changes that Django sends no signals of: `bulk_create`, `bulk_update` and `update`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import reduce
from operator import or_
from typing import Any, TypeVar

from django.db import NotSupportedError, connections, models
from django.db.models import Q, QuerySet

from .publication import (
    Change,
    Publication,
    batches,
    is_expression,
    publications_of,
    published_together,
    suppress_changes,
    suppressed,
)

Row = TypeVar("Row", bound=models.Model)
#: The chosen fields of the rows, by publication and key.
Before = dict[Publication, dict[Any, dict[str, Any]]]


class ChangesQuerySet(QuerySet[Row]):
    """A queryset whose bulk operations publish what `@publish_changes` says for its model.

    Each call is one transaction on the rows' database, in which the rows are read, locked where
    the database can, in statements of at most 500; their events are published together at its end.
    On a model without the decorator, and within `suppress_changes()`, it is Django's own.
    The async twins do the same.
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
        """Insert the rows and publish `created`, or `updated` for what `update_conflicts` changed.

        Raises `NotSupportedError`, before anything is written, for what leaves no way to know the
        rows: `ignore_conflicts`, and `update_conflicts` without `unique_fields`; and after it,
        which undoes it, on a database that does not return the keys.
        """
        insert = super().bulk_create
        rest = (batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields)
        if not self._publications():
            return insert(objs, *rest)
        if ignore_conflicts or (update_conflicts and not unique_fields):
            raise NotSupportedError(
                "bulk_create(ignore_conflicts=True), or update_conflicts=True without "
                "unique_fields, can't publish: the database does not say which rows it wrote. Give "
                "unique_fields, or do it within suppress_changes() and publish yourself."
            )
        objs = list(objs)
        self._for_write = True
        with published_together(self.db):
            before = self._before(self._conflicting(objs, unique_fields) if unique_fields else [])
            with suppress_changes():
                made = insert(objs, *rest)
            if any(one.pk is None for one in made):
                raise NotSupportedError(
                    f"bulk_create() can't publish: {connections[self.db].display_name} does not "
                    "return the keys of the rows. Set them before, or use suppress_changes()."
                )
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
            keys = {one.pk: None for one in objs if one.pk is not None}  # each once, in order
            found = [
                row for some in batches(keys) for row in self._locked(self.filter(pk__in=some))
            ]
            before = self._before(found)
            with suppress_changes():
                count = change(objs, fields, batch_size)
            self._publish_rows([row.pk for row in found], before)
        return count

    def update(self, **values: Any) -> int:
        """Update the rows and publish `updated` for each one that changed.

        The rows are those that match at the start; they are then updated by their keys, in several
        statements if they are many. Raises `NotSupportedError` for a new primary key.
        """
        if not self._publications() or self.query.is_sliced or self.query.combinator:
            return super().update(**values)  # which refuses the last two
        if {"pk", self.model._meta.pk.name, self.model._meta.pk.attname} & set(values):
            raise NotSupportedError(
                "update() of a primary key can't be published: to readers it is another row. "
                "Do it within suppress_changes() and publish yourself."
            )
        self._for_write = True
        with published_together(self.db):
            found = self._locked(self)
            before = self._before(found)
            keys = [row.pk for row in found]
            with suppress_changes():
                count = sum(self._of(some).update(**values) for some in self._portions(keys))
            self._result_cache = None
            self._publish_rows(keys, before)
        return count

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows and publish `deleted` for each, and for each that goes with them."""
        if not self._publications():
            return super().delete()
        self._for_write = True
        with published_together(self.db):
            return super().delete()

    def _publications(self) -> list[Publication]:
        return [] if suppressed() else publications_of(self.model)

    def _rows(self) -> QuerySet[Row]:
        rows: QuerySet[Row] = self.model._base_manager.using(self.db)
        return rows

    def _portions(self, keys: list[Any]) -> list[list[Any]]:
        # With the filter of this queryset in one statement only: the first of several would change
        # what the next one looks at. Without rows it is one for Django to look at the values.
        return [keys] if self.query.annotations else [*batches(keys)] or [[]]

    def _of(self, keys: Sequence[Any]) -> QuerySet[Row]:
        # Values may name annotations, which only this queryset has; else the keys are enough.
        rows: QuerySet[Row] = self if self.query.annotations else self._rows()
        return rows.filter(pk__in=keys)

    def _locked(self, rows: QuerySet[Row]) -> list[Row]:
        """Read the rows that match, with the chosen fields, locked in the order of their keys.

        The filter is in the statement that locks, so that PostgreSQL looks at it again for a row
        that it had to wait for.
        """
        query = rows.query
        if (
            getattr(rows, "_fields", None) is not None
            or query.group_by is not None
            or query.distinct
        ):
            rows = self._rows().filter(pk__in=rows.order_by().values("pk"))  # these can't lock
        features = connections[self.db].features
        if features.has_select_for_update:
            parents = [link.name for link in self.model._meta.parents.values() if link]
            of = ("self", *parents) if features.has_select_for_update_of else ()
            rows = rows.select_for_update(of=of)
        names = {name for one in self._publications() for name in one.fields}
        plain = rows.using(self.db).select_related(None).prefetch_related(None)
        found = plain.order_by("pk").only("pk", *names)
        return list({row.pk: row for row in found}.values())  # a join may repeat a row

    def _conflicting(self, objs: Sequence[Row], unique_fields: Collection[str]) -> list[Row]:
        """Read and lock the rows that are there already."""
        meta = self.model._meta
        names = [meta.pk.name if name == "pk" else name for name in unique_fields]
        columns = [meta.get_field(name).attname for name in names]  # type: ignore[union-attr]
        found: list[Row] = []
        for some in batches(objs):
            same = [Q(**{name: getattr(one, name) for name in columns}) for one in some]
            found += self._locked(self._rows().filter(reduce(or_, same)))
        return found

    def _before(self, rows: Iterable[Row]) -> Before:
        return {
            publication: {row.pk: publication.in_memory(row) for row in rows}
            for publication in self._publications()
        }

    def _publish_created(self, made: Sequence[Row]) -> None:
        for publication in self._publications():
            for some in batches(made):
                values = [publication.as_read(publication.in_memory(one)) for one in some]
                changes = [
                    Change(one, "created", shown) for one, shown in zip(some, values, strict=True)
                ]
                publication.publish(changes, self.db)

    def _publish_rows(self, keys: Sequence[Any], before: Before, created: bool = False) -> None:
        """Publish what the rows are now: the database knows what became of expressions."""
        for some in batches(keys):
            found = {row.pk: row for row in self._rows().filter(pk__in=some)}
            rows = [found[key] for key in some if key in found]
            for publication in self._publications():
                old = before[publication]
                changes = [
                    Change(row, "created", publication.in_memory(row))
                    if created and row.pk not in old
                    else publication.updated(row, old[row.pk], publication.in_memory(row))
                    for row in rows
                ]
                publication.publish([one for one in changes if one is not None], self.db)


# As Django marks its own: templates must not call them, and a manager has no delete().
for _method in ("bulk_create", "bulk_update", "update", "delete"):
    vars(ChangesQuerySet)[_method].__dict__.update(vars(getattr(QuerySet, _method)))


class ChangesManager(
    models.Manager.from_queryset(ChangesQuerySet)  # type: ignore[misc]  # a base made at run time
):
    """A manager of `ChangesQuerySet`: `objects = ChangesManager()`."""


def _have_expressions(rows: Iterable[models.Model]) -> bool:
    kinds = {type(value) for row in rows for value in row.__dict__.values()}
    return any(map(is_expression, kinds))
