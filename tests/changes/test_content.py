"""What an event says of a row: the database's values, and nothing that fails the save."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.db import connection, connections, models
from django.db.models import F, Value
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import override

from sse_app.changes import publish_changes, suppress_changes
from sse_app.testing import capture_events

from ..shop.models import Order, Parcel, Tag

pytestmark = pytest.mark.django_db(databases=["default", "postgresql"])


def published(work: Callable[[], Any], using: str = "default") -> list[Any]:
    with capture_events(using=using) as events:
        work()
    return [event.json() for event in events if event.group in ("parcels", "shop", "plain")]


def fields_of(work: Callable[[], Any], using: str = "default") -> dict[str, Any]:
    fields: dict[str, Any] = published(work, using)[0]["fields"]
    return fields


@pytest.fixture(autouse=True)
def _files(settings: Any, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = str(tmp_path)


def test_files_infinity_and_bytes_are_given_as_text() -> None:
    parcel = Parcel(weight=math.inf, scan=b"\x00\xff", extra={"a": (1, 2)})
    parcel.photo.save("a.txt", ContentFile(b"a"), save=False)
    fields = fields_of(parcel.save)
    assert (fields["weight"], fields["double"]) == ("inf", "inf")
    assert (fields["scan"], fields["photo"]) == ("AP8=", parcel.photo.name)
    assert fields["extra"] == {"a": [1, 2]}
    parcel.refresh_from_db()
    assert published(parcel.save) == [], "the same values, read again"
    deleted = fields_of(parcel.delete)
    assert deleted == fields


def test_a_text_that_utf_8_can_not_hold_does_not_fail_the_save() -> None:
    assert fields_of(lambda: Parcel.objects.create(extra={"a": "\ud800"}))["extra"] == {"a": "?"}


PLACES = [(20, "20.00"), ("20.1", "20.10"), (Decimal("20.005"), None), (1.5, "1.50")]


@pytest.mark.parametrize("using", ["default", "postgresql"])
@pytest.mark.parametrize(("price", "text"), PLACES)
def test_values_are_published_as_the_database_gives_them(
    using: str, price: Any, text: str | None
) -> None:
    rows = Parcel.objects.using(using)
    sent_at = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    made: list[Any] = []

    def create() -> None:
        made.append(rows.create(price=price, sent_at=sent_at, extra={1: "a"}))

    def create_many() -> None:
        made.extend(rows.bulk_create([Parcel(price=price, sent_at=sent_at, extra={1: "a"})]))

    for work in (create, create_many):
        fields = fields_of(work, using)
        row = rows.get(pk=made[-1].pk)
        assert fields["price"] == str(row.price) == (text or fields["price"])
        assert fields["sent_at"] == "2026-05-01T10:00:00Z"
        assert fields["extra"] == {"1": "a"}
        assert published(lambda: made[-1].save(using=using), using) == [], "nothing has changed"


def test_a_naive_time_is_that_of_the_projects_time_zone() -> None:
    with override("Europe/Berlin"), pytest.warns(RuntimeWarning, match="naive"):
        fields = fields_of(lambda: Parcel.objects.create(sent_at=datetime(2026, 5, 1, 12)))
    assert fields["sent_at"] == Parcel.objects.get().sent_at.astimezone(UTC).isoformat().replace(
        "+00:00", "Z"
    )


@pytest.mark.parametrize("using", ["default", "postgresql"])
def test_generated_fields_and_database_defaults_are_read_again(using: str) -> None:
    rows = Parcel.objects.using(using)
    parcel: Any = None

    def create() -> None:
        nonlocal parcel
        parcel = rows.create(weight=2)

    fields = fields_of(create, using)
    assert (fields["double"], fields["label"]) == (4.0, "none")
    parcel.weight = 5
    said = published(lambda: parcel.save(using=using), using)
    assert said[0]["changed"] == {"weight": [2.0, 5.0], "double": [4.0, 10.0]}
    parcel.weight = 6
    said = published(lambda: parcel.save(using=using, update_fields=["weight"]), using)
    assert said[0]["changed"] == {"weight": [5.0, 6.0], "double": [10.0, 12.0]}
    fields = fields_of(lambda: rows.bulk_create([Parcel(weight=3)]), using)
    assert (fields["double"], fields["label"]) == (6.0, "none")


def test_a_serializer_and_a_function_read_generated_values_too() -> None:
    doubles: list[Any] = []

    def double(parcel: Any) -> str:
        doubles.append(parcel.double)
        return "plain"

    model: Any = publish_changes(groups=double, name="copy")(_copy_of_parcel())
    with suppress_changes():
        parcel = Parcel.objects.create(weight=1)
    row = model.objects.get(pk=parcel.pk)
    row.weight = 4
    published(row.save)
    assert 8.0 in doubles


def _copy_of_parcel() -> type[models.Model]:
    from django.apps import apps

    meta = type("Meta", (), {"app_label": "shop", "db_table": "shop_parcel", "managed": False})
    weight = models.FloatField()
    double = models.GeneratedField(
        expression=F("weight") * 2, output_field=models.FloatField(), db_persist=True
    )
    members = {"__module__": __name__, "Meta": meta, "weight": weight, "double": double}
    model = type("ParcelCopy", (models.Model,), members)
    del apps.all_models["shop"]["parcelcopy"]
    apps.clear_cache()
    return model


@pytest.fixture
def ranges() -> Iterator[Any]:
    """A model with a column of PostgreSQL's own."""
    from django.apps import apps
    from django.contrib.postgres.fields import ArrayField, IntegerRangeField

    members = {
        "__module__": __name__,
        "Meta": type("Meta", (), {"app_label": "shop"}),
        "ages": IntegerRangeField(),
        "tags": ArrayField(models.CharField(max_length=5), default=list),
    }
    model: Any = type("Ranges", (models.Model,), members)
    del apps.all_models["shop"]["ranges"]
    apps.clear_cache()
    with connections["postgresql"].schema_editor() as editor:
        editor.create_model(model)
    return publish_changes(groups="plain", fields=["ages", "tags"])(model)


def test_a_range_is_given_as_text(ranges: Any) -> None:
    def create() -> None:
        ranges.objects.using("postgresql").create(ages=(1, 5), tags=["a"])

    assert fields_of(create, "postgresql") == {"ages": "[1, 5)", "tags": ["a"]}


# --- too long ---

LONG = "é\n" * 40_000


def test_a_row_that_is_too_long_is_published_with_its_key_and_what_is_left_out() -> None:
    parcel = Parcel()
    names = [name for name in fields_of(parcel.save) if name]
    parcel.extra = {"text": LONG}
    assert published(parcel.save) == [{"pk": parcel.pk, "omitted": names}]
    assert published(lambda: Parcel.objects.update(price=1)) == [
        {"pk": parcel.pk, "omitted": names}
    ]
    assert published(parcel.delete)[0]["omitted"] == names


def test_a_serializer_may_return_too_much_and_infinity() -> None:
    given: dict[str, Any] = {}
    model: Any = publish_changes(groups="plain", serializer=lambda tag: given["data"])(
        _copy_of_tag("TagCopy")
    )
    for data, said in (
        ({"pk": 5, "text": LONG}, {"omitted": ["text"]}),
        (LONG, {"omitted": []}),
        ({LONG: 1}, {"omitted": []}),
        ({"a": math.nan, "b": ["\udc00", -math.inf]}, {"a": "nan", "b": ["?", "-inf"]}),
    ):
        given["data"] = data
        row = model(name="a")
        (found,) = published(row.save)
        assert found == ({"pk": row.pk, **said} if "omitted" in said else said)
    given["data"] = {"a": object()}
    with pytest.raises(TypeError, match="can't be JSON"):
        model.objects.create(name="a")


def test_many_to_many_changes_with_too_many_keys_are_shortened() -> None:
    with suppress_changes():
        order = Order.objects.create()
        tags = Tag.objects.bulk_create(Tag(pk=10**12 + number) for number in range(6_000))
    said = published(lambda: order.tags.set(tags))
    assert said == [{"pk": order.pk, "omitted": ["added", "removed", "cleared"]}]


def _copy_of_tag(name: str) -> type[models.Model]:
    from django.apps import apps

    meta = type("Meta", (), {"app_label": "shop", "db_table": "shop_tag", "managed": False})
    members = {"__module__": __name__, "Meta": meta, "name": models.CharField(max_length=40)}
    model = type(name, (models.Model,), members)
    del apps.all_models["shop"][name.lower()]
    apps.clear_cache()
    return model


# --- serializers ---


def tag_data(tag: Any) -> dict[str, Any]:
    """Named by its path, as a module that imports the models would be."""
    return {"text": tag.name.upper()}


def test_a_serializer_may_be_named_by_its_path() -> None:
    path = f"{__name__}.tag_data"
    model: Any = publish_changes(groups="plain", serializer=path)(_copy_of_tag("TagByPath"))
    assert published(lambda: model.objects.create(name="a")) == [{"text": "A"}]


def test_an_update_of_an_expression_reads_the_row_once_more() -> None:
    with suppress_changes():
        parcel = Parcel.objects.create(price=1)
    parcel.price = F("price") + Value(1)
    with CaptureQueriesContext(connection) as taken:
        said = published(parcel.save)
    assert said[0]["changed"] == {"price": ["1.00", "2.00"]}
    assert len([query for query in taken if 'FROM "shop_parcel"' in query["sql"]]) == 2
