"""Many-to-many changes as events: `order.tags.changed`, from both ends of the relation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final, cast

from django.db import models
from django.db.models.fields.related import resolve_relation
from django.db.models.signals import m2m_changed

from ..protocol.events import validate_published
from .content import event_text
from .pending import batches, publish_together, suppressed
from .publication import Publication

_REMOVED: Final = "_sse_app_removed"
#: For the key of each changed row: the keys of the related rows that were added or removed.
Pairs = dict[Any, list[Any]]


def connect_m2m(publication: Publication, field: models.ManyToManyField[Any, Any]) -> None:
    """Publish `<name>.<field>.changed` for each row whose related rows of `field` changed.

    The data is `{"pk", "added", "removed", "cleared"}`, with keys of the related rows.
    """
    name = validate_published(f"{publication.prefix}.{field.name}.changed")
    attribute = f"{_REMOVED}_{field.name}"

    def changed(
        sender: Any,
        instance: models.Model,
        action: str,
        reverse: bool,
        pk_set: set[Any] | None,
        using: str,
        **kwargs: Any,
    ) -> None:
        if suppressed():
            return
        if action in ("pre_remove", "pre_clear"):
            # Read the related rows: `pk_set` may have keys of rows that are not related.
            pairs = _stored(field, instance, reverse, pk_set, using)
            instance.__dict__[attribute] = pairs
        elif action in ("post_remove", "post_clear"):
            removed = instance.__dict__.pop(attribute, {})
            _publish(publication, name, removed, using, "removed", action == "post_clear")
        elif action == "post_add" and pk_set:
            pairs = _pairs(field, instance, reverse, sorted(pk_set))
            _publish(publication, name, pairs, using, "added")

    through = resolve_relation(publication.model, _through(field))
    m2m_changed.connect(changed, sender=through, weak=False)


def _pairs(
    field: models.ManyToManyField[Any, Any],
    instance: models.Model,
    reverse: bool,
    others: Collection[Any],
) -> Pairs:
    pairs: defaultdict[Any, list[Any]] = defaultdict(list)
    if not reverse:
        pairs[instance.pk] += others
    if reverse or _is_symmetrical(field):  # Django sends no signal for the other direction.
        for other in others:
            pairs[other].append(instance.pk)
    return pairs


def _stored(
    field: models.ManyToManyField[Any, Any],
    instance: models.Model,
    reverse: bool,
    pk_set: Collection[Any] | None,
    using: str,
) -> Pairs:
    """Return the rows that are related to the instance, of those in `pk_set` (None: all)."""
    near, far = field.m2m_field_name(), field.m2m_reverse_field_name()
    if reverse:
        near, far = far, near
    rows = _through(field)._base_manager.using(using).filter(**{near: instance.pk})
    column = cast("models.Field[Any, Any]", rows.model._meta.get_field(far)).attname
    others = [
        other
        for batch in ([None] if pk_set is None else batches(sorted(pk_set)))
        for other in (rows if batch is None else rows.filter(**{f"{far}__in": batch}))
        .order_by(column)
        .values_list(column, flat=True)
    ]
    return _pairs(field, instance, reverse, others)


def _publish(
    publication: Publication,
    name: str,
    pairs: Pairs,
    using: str,
    side: str,
    cleared: bool = False,
) -> None:
    """Publish one event for each changed row; `side` is `added` or `removed`."""
    for batch in batches([key for key, others in pairs.items() if others]):
        found = publication.model._base_manager.using(using).in_bulk(batch)
        rows = [found[key] for key in batch if key in found]
        publication.load_related(rows)
        none: dict[str, Any] = {"added": [], "removed": [], "cleared": cleared}
        publish_together(
            [
                (group, name, text)
                for row in rows
                for data in [{"pk": row.pk, **none, side: pairs[row.pk]}]
                for text in [event_text(name, data, row.pk, none, any_type=True)]
                for group in publication.groups_of(row)
            ],
            using,
        )


def _is_symmetrical(field: models.ManyToManyField[Any, Any]) -> bool:
    return bool(getattr(field.remote_field, "symmetrical", False))


def _through(field: models.ManyToManyField[Any, Any]) -> type[models.Model]:
    """Return the model of the table between; a str as long as that model is not defined."""
    return cast("type[models.Model]", field.remote_field.through)
