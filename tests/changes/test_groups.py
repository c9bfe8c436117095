"""The groups of a row: the ones that it leaves and joins, soft deletes, names of any text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sse_app.changes import publish_changes, suppress_changes
from sse_app.protocol.groups import group_name, validate_group
from sse_app.testing import capture_events

from ..shop.models import Customer, Note, Parcel, Product

pytestmark = pytest.mark.django_db

Said = list[tuple[str, str, Any]]


def published(work: Callable[[], Any]) -> Said:
    with capture_events() as events:
        work()
    return [(event.group, event.name, json.loads(event.data)) for event in events]


def names(work: Callable[[], Any]) -> list[tuple[str, str]]:
    return [(group, name) for group, name, _ in published(work)]


@pytest.fixture
def parcel() -> Parcel:
    with suppress_changes():
        return Parcel.objects.create(room="a")


MOVED = [("room.a", "parcel.deleted"), ("parcels", "parcel.updated"), ("room.b", "parcel.updated")]


def test_a_row_that_moves_is_deleted_in_its_old_group_with_its_old_values(parcel: Parcel) -> None:
    def move() -> None:
        parcel.room, parcel.price = "b", 5
        parcel.save()

    said = published(move)
    assert [(group, name) for group, name, _ in said] == MOVED
    old, new = said[0][2], said[1][2]
    assert (old["fields"]["room"], old["fields"]["price"]) == ("a", "0.00")
    assert "changed" not in old
    assert new["changed"] == {"room": ["a", "b"], "price": ["0.00", "5.00"]}


def move_by(how: str, parcel: Parcel) -> None:
    parcel.room = "b"
    if how == "save":
        parcel.save()
    elif how == "update_fields":
        parcel.price = 7
        parcel.save(update_fields=["room"])
    elif how == "update":
        Parcel.objects.filter(pk=parcel.pk).update(room="b")
    elif how == "bulk_update":
        Parcel.objects.bulk_update([parcel], ["room"])
    elif how == "an expression":
        parcel.room = F("label")
        parcel.save()
    else:
        light = Parcel.objects.only("room").get(pk=parcel.pk)
        light.room = "b"
        light.save()


@pytest.mark.parametrize(
    "how", ["save", "update_fields", "update", "bulk_update", "an expression", "only"]
)
def test_each_way_to_move_a_row_tells_its_old_group(parcel: Parcel, how: str) -> None:
    Parcel.objects.filter(pk=parcel.pk)._update([(Parcel._meta.get_field("label"), None, "b")])
    assert names(lambda: move_by(how, parcel)) == MOVED


def test_a_move_that_was_not_saved_is_none(parcel: Parcel) -> None:
    parcel.room, parcel.price = "b", 5
    assert names(lambda: parcel.save(update_fields=["price"])) == [
        ("parcels", "parcel.updated"),
        ("room.a", "parcel.updated"),
    ]


@pytest.fixture
def note() -> Note:
    with suppress_changes():
        return Note.objects.create(author=Customer.objects.create(name="ann"), text="open")


def test_groups_of_a_function_are_compared_too(note: Note) -> None:
    bob = Customer.objects.create(name="bob")

    def give() -> None:
        note.author = bob
        note.save()

    assert names(give) == [("by.ann", "note.deleted"), ("by.bob", "note.updated")]
    note.public, note.text = False, "secret"
    assert published(note.save) == [("by.bob", "note.deleted", {"pk": note.pk})]
    assert published(note.save) == []
    note.public = True
    assert names(note.save) == [("by.bob", "note.updated")]
    note.author_id, note.text = 0, "not saved"
    assert names(lambda: note.save(update_fields=["text"])) == [("by.bob", "note.updated")]


def test_a_save_that_moves_nothing_reads_its_relations_once(note: Note) -> None:
    note = Note.objects.get(pk=note.pk)
    note.text = "b"
    with CaptureQueriesContext(connection) as taken:
        published(note.save)
    assert len([query for query in taken if '"shop_customer"' in query["sql"]]) == 1


def test_a_bulk_move_reads_as_many_rows_with_as_few_queries(note: Note) -> None:
    bob = Customer.objects.create(name="bob")
    with suppress_changes():
        Note.objects.bulk_create(Note(author=note.author) for _ in range(3))
    said = names(lambda: Note.objects.update(author=bob))
    assert said == [("by.ann", "note.deleted"), ("by.bob", "note.updated")] * 4


def test_a_function_that_does_not_know_the_old_row_does_not_fail_the_save(
    note: Note, caplog: pytest.LogCaptureFixture
) -> None:
    lost = Note.objects.get(pk=note.pk)
    lost.author = Customer.objects.create(name="bob")
    publication = _publication_of(Note)
    given = publication.groups

    def fails(row: Note) -> Any:
        return given(row) if row.author_id == lost.author_id else 1 // 0

    vars(publication)["groups"] = fails
    try:
        assert names(lost.save) == [("by.bob", "note.updated")]
    finally:
        vars(publication)["groups"] = given
    assert "The groups of a note before its change are not known" in caplog.text


def _publication_of(model: Any) -> Any:
    from sse_app.changes.publication import publications_of

    return publications_of(model)[0]


# --- soft delete ---


def test_a_row_with_the_mark_of_a_deleted_one_is_published_as_deleted(parcel: Parcel) -> None:
    rows = [("parcels", "parcel.deleted"), ("room.a", "parcel.deleted")]
    parcel.deleted_at = timezone.now()
    assert names(parcel.save) == rows
    parcel.price = 9
    assert names(parcel.save) == [], "nobody sees it"
    assert names(lambda: Parcel.objects.update(price=3)) == []
    back = [(group, "parcel.created") for group, _ in rows]
    assert names(lambda: Parcel.objects.update(deleted_at=None)) == back
    assert names(lambda: Parcel.objects.update(deleted_at=timezone.now())) == rows
    assert names(parcel.delete) == [], "it was deleted before"
    assert names(lambda: Parcel.objects.create(deleted_at=timezone.now())) == []


def test_a_soft_delete_with_update_fields_is_published(parcel: Parcel) -> None:
    parcel.deleted_at, parcel.room = timezone.now(), "not saved"
    said = published(lambda: parcel.save(update_fields=["deleted_at"]))
    assert [name for _, name, _ in said] == ["parcel.deleted"] * 2
    assert said[0][2]["fields"]["room"] == "a"


def test_an_unknown_mark_of_deleted_rows_is_named() -> None:
    with pytest.raises(FieldDoesNotExist, match=r"deleted=…\) names 'gone'.*It has: id, title"):
        publish_changes(groups="g", deleted="gone")(Product)


# --- names made of texts ---

TEXTS = ["my room", "Zimmer 5 / Nord", "é", "", "a\n", "x" * 200, "../..", "sse.control", "\x00"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_group_of_a_users_text_does_not_fail_the_save(text: str) -> None:
    parcel: Any = None

    def create() -> None:
        nonlocal parcel
        parcel = Parcel.objects.create(room=text)

    groups = [group for group, _ in names(create)]
    assert groups == ["parcels", group_name(f"room.{text}")]
    assert validate_group(groups[1]).startswith("room.")


def test_different_texts_have_different_names() -> None:
    made = [group_name(text) for text in TEXTS]
    assert len(set(made)) == len(TEXTS)
    for name in made:
        assert group_name(name) == name, "a made name stays as it is"
        assert group_name("".join(name)) != name, "and nobody can give it to another text"
    assert group_name("orders.a-b_c") == "orders.a-b_c"
    assert group_name("sse.control") != "sse.control"


def test_a_group_of_a_function_is_encoded_too_and_one_that_it_has_encoded_is_not() -> None:
    customer = Customer.objects.create(name="Ann & Bob")
    name = group_name("by.Ann & Bob")
    assert names(lambda: Note.objects.create(author=customer)) == [(name, "note.created")]
    publication = _publication_of(Note)
    given = publication.groups
    vars(publication)["groups"] = lambda note: group_name(given(note)[0])
    try:
        assert names(lambda: Note.objects.create(author=customer)) == [(name, "note.created")]
    finally:
        vars(publication)["groups"] = given


@pytest.mark.parametrize("value", [5, None, b"a"])
def test_only_a_text_has_a_group_name(value: Any) -> None:
    with pytest.raises(ValueError, match="Invalid group name"):
        group_name(value)
