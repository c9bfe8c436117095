"""`@publish_changes`: what the demo's orders publish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import FieldDoesNotExist
from django.db import connection, models, transaction
from django.db.models import F
from django.test import Client
from django.utils.timezone import now

from project.models import Order
from project.orders import HTMX_GROUP, TURBO_GROUP
from sse_app.changes import publish_changes, suppress_changes
from sse_app.protocol.events import Event
from sse_app.signals import event_published
from sse_app.testing import capture_events

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])


class Seen(list[Event]):
    """The events that left, and what they say."""

    def take(self) -> list[tuple[str, Any]]:
        # The demo publishes rows of HTML beside them.
        taken = [
            (event.name, json.loads(event.data))
            for event in self
            if event.group not in (HTMX_GROUP, TURBO_GROUP)
        ]
        self.clear()
        return taken

    def one(self, name: str) -> Any:
        ((found, data),) = self.take()
        assert found == name
        return data


@pytest.fixture
def seen() -> Iterator[Seen]:
    events = Seen()

    def receive(sender: Any, event: Event, **kwargs: Any) -> None:
        events.append(event)

    event_published.connect(receive)
    yield events
    event_published.disconnect(receive)


def make(**fields: Any) -> Order:
    return Order.objects.create(
        **{"customer": "Ada", "item": "Lamp", "total": Decimal("5.00"), **fields}
    )


@pytest.fixture
def order(seen: Seen) -> Order:
    """An order as a view would load it, its own event forgotten."""
    pk = make().pk
    seen.clear()
    return Order.objects.get(pk=pk)


def test_a_created_row_is_published(seen: Seen) -> None:
    order = make()
    assert [event.group for event in seen] == ["orders"]
    assert seen[0].offset == 1
    assert seen.one("order.created") == {
        "pk": order.pk,
        "fields": {"customer": "Ada", "item": "Lamp", "status": "new", "total": "5.00"},
    }


def test_an_updated_row_is_published_with_old_and_new_values(seen: Seen, order: Order) -> None:
    order.status, order.total = "paid", Decimal("6.50")
    order.save()
    assert seen.one("order.updated") == {
        "pk": order.pk,
        "fields": {"customer": "Ada", "item": "Lamp", "status": "paid", "total": "6.50"},
        "changed": {"status": ["new", "paid"], "total": ["5.00", "6.50"]},
    }


def test_a_deleted_row_is_published_with_its_key(seen: Seen, order: Order) -> None:
    pk = order.pk
    order.delete()
    data = seen.one("order.deleted")
    assert data["pk"] == pk
    assert data["fields"]["item"] == "Lamp"


def test_a_save_that_changes_nothing_chosen_publishes_nothing(seen: Seen, order: Order) -> None:
    order.save()
    assert seen == []


def test_two_saves_are_each_compared_with_the_one_before(seen: Seen, order: Order) -> None:
    for status in ("paid", "packed", "packed", "paid"):
        order.status = status
        order.save()
    assert [data["changed"]["status"] for _, data in seen.take()] == [
        ["new", "paid"],
        ["paid", "packed"],
        ["packed", "paid"],
    ]


def test_a_row_can_be_changed_right_after_it_was_created(seen: Seen) -> None:
    order = make()
    order.status = "paid"
    order.save()
    assert [name for name, _ in seen.take()] == ["order.created", "order.updated"]


def test_update_fields_publishes_what_was_written(seen: Seen, order: Order) -> None:
    order.status, order.item = "paid", "not written"
    order.save(update_fields=["status"])
    assert seen.one("order.updated")["changed"] == {"status": ["new", "paid"]}
    order.save(update_fields=["updated_at"])
    assert seen == []
    order.save()
    assert seen.one("order.updated")["changed"] == {"item": ["Lamp", "not written"]}


def test_the_fields_of_an_update_are_those_of_the_row(seen: Seen, order: Order) -> None:
    order.status, order.item = "paid", "not written"
    order.save(update_fields=["status"])
    assert seen.one("order.updated")["fields"].get("item", "Lamp") == "Lamp"


def test_an_expression_does_not_break_the_save(seen: Seen, order: Order) -> None:
    order.total = F("total") + 1
    order.save()
    assert Order.objects.get(pk=order.pk).total == Decimal("6.00")
    ((name, data),) = seen.take()
    assert (name, data["pk"]) == ("order.updated", order.pk)
    assert data["changed"] == {"total": ["5.00", "6.00"]}


def test_values_read_anew_are_no_change(seen: Seen, order: Order) -> None:
    Order.objects.filter(pk=order.pk).update(status="paid")
    order.refresh_from_db()
    order.save()
    assert seen == []
    order.item = "Bell"
    order.save()
    assert seen.one("order.updated")["changed"] == {"item": ["Lamp", "Bell"]}


def test_a_deferred_field_that_was_read_is_no_change(seen: Seen, order: Order) -> None:
    light = Order.objects.only("status").get(pk=order.pk)
    assert light.item == "Lamp"
    light.save()
    assert seen == []


def test_a_deferred_field_is_not_loaded_for_the_event(seen: Seen, order: Order) -> None:
    light = Order.objects.only("status").get(pk=order.pk)
    light.status = "paid"
    light.save()
    data = seen.one("order.updated")
    assert data["changed"] == {"status": ["new", "paid"]}
    assert "item" in light.get_deferred_fields()


def test_a_save_after_a_rollback_is_published(seen: Seen, order: Order) -> None:
    order.status = "paid"
    with transaction.atomic():
        order.save()
        transaction.set_rollback(True)
    assert seen == []
    order.save()
    assert Order.objects.get(pk=order.pk).status == "paid"
    assert seen.one("order.updated")["fields"]["status"] == "paid"


def test_changes_can_be_suppressed_in_a_block(seen: Seen, order: Order) -> None:
    with suppress_changes():
        with suppress_changes():
            make()
        order.status = "paid"
        order.save()
        make().delete()
    assert seen == []
    order.status = "packed"
    order.save()
    assert seen.one("order.updated")["changed"] == {"status": ["paid", "packed"]}


def test_suppression_ends_with_an_exception(seen: Seen) -> None:
    with pytest.raises(ZeroDivisionError), suppress_changes():
        raise ZeroDivisionError
    make()
    assert len(seen) == 1


def test_a_rolled_back_change_is_never_published(seen: Seen) -> None:
    with transaction.atomic():
        make()
        transaction.set_rollback(True)
    assert seen == []
    assert not Order.objects.exists()


@pytest.mark.parametrize("verb", ["created", "updated", "deleted"])
def test_row_and_event_are_one_transaction_in_autocommit(
    seen: Seen, order: Order, verb: str
) -> None:
    order.status = "paid"
    work = {"created": make, "updated": order.save, "deleted": order.delete}[verb]
    with (
        mock.patch(
            "sse_app.changes.pending.publish_in_transaction",
            side_effect=RuntimeError("no event"),
        ),
        pytest.raises(RuntimeError, match="no event"),
    ):
        work()
    assert list(Order.objects.values_list("pk", "status")) == [(order.pk, "new")]
    assert seen == []


def test_a_save_that_failed_and_is_repeated_is_published(seen: Seen, order: Order) -> None:
    order.status = "paid"
    with (
        mock.patch(
            "sse_app.changes.pending.publish_in_transaction",
            side_effect=RuntimeError("no event"),
        ),
        pytest.raises(RuntimeError),
    ):
        order.save()
    order.save()
    assert seen.one("order.updated")["changed"] == {"status": ["new", "paid"]}


def test_a_queryset_delete_publishes_each_row(seen: Seen) -> None:
    pks = {make().pk for _ in range(3)}
    seen.clear()
    Order.objects.filter(pk__in=pks).delete()
    taken = seen.take()
    assert {name for name, _ in taken} == {"order.deleted"}
    assert {data["pk"] for _, data in taken} == pks


def test_the_bulk_delete_of_the_admin_publishes_each_row(seen: Seen) -> None:
    pks = {make().pk for _ in range(3)}
    seen.clear()
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    form = {"action": "delete_selected", "_selected_action": sorted(pks), "post": "yes"}
    answer = client.post("/admin/project/order/", form)
    assert answer.status_code == 302
    assert not Order.objects.exists()
    assert {data["pk"] for _, data in seen.take()} == pks


def test_the_admins_form_publishes_what_it_saves(seen: Seen, order: Order) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    form = {"customer": "Ada", "item": "Lamp", "status": "paid", "total": "5.00"}
    answer = client.post(f"/admin/project/order/{order.pk}/change/", form)
    assert answer.status_code == 302
    assert seen.one("order.updated")["changed"] == {"status": ["new", "paid"]}


def test_a_save_to_another_database_publishes_too(seen: Seen) -> None:
    order = Order(customer="Ada", item="Lamp", total=Decimal("5.00"))
    order.save(using="postgresql")
    assert seen.one("order.created")["pk"] == order.pk
    with transaction.atomic(using="postgresql"):
        order.status = "paid"
        order.save(using="postgresql")
        transaction.set_rollback(True, using="postgresql")
    assert seen == []


async def test_the_async_save_publishes_too(seen: Seen) -> None:
    order = await Order.objects.acreate(customer="Ada", item="Lamp", total=Decimal("5.00"))
    await order.adelete()
    assert [name for name, _ in seen.take()] == ["order.created", "order.deleted"]


# Models of no app of the tests' own, each with its table for one test.


def plain(name: str) -> type[models.Model]:
    meta = type("Meta", (), {"app_label": "project"})
    fields = {
        "title": models.TextField(),
        "owner": models.ForeignKey(User, models.DO_NOTHING, null=True, db_constraint=False),
    }
    model = type(name, (models.Model,), {"__module__": __name__, "Meta": meta, **fields})
    from django.apps import apps

    del apps.all_models["project"][name.lower()]
    return model


def sent(model: Any, name: str, **fields: Any) -> list[tuple[str, str, Any]]:
    """Do it to a row with the key 7, and return what is published."""
    with connection.schema_editor() as editor:
        editor.create_model(model)
    try:
        with suppress_changes():
            instance = model(pk=7, **fields)
            if name != "created":
                instance.save(force_insert=True)
        with capture_events() as events:
            instance.delete() if name == "deleted" else instance.save()
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(model)
    return [(event.group, event.name, event.json()) for event in events]


def test_without_fields_an_event_shows_the_key_only() -> None:
    model = publish_changes(groups="things")(plain("Bare"))
    for verb in ("created", "updated", "deleted"):
        assert sent(model, verb) == [("things", f"bare.{verb}", {"pk": 7})]


def test_groups_may_be_patterns_over_the_instance() -> None:
    model = publish_changes(groups=["things", "thing.{pk}", "owner.{owner_id}"])(plain("Many"))
    assert [group for group, _, _ in sent(model, "created", owner_id=3)] == [
        "things",
        "thing.7",
        "owner.3",
    ]


@pytest.mark.parametrize("answer", ["thing.7", ["thing.7"]])
def test_groups_may_be_a_callable(answer: Any) -> None:
    model = publish_changes(groups=lambda thing: answer)(plain("Called"))
    assert [group for group, _, _ in sent(model, "created")] == ["thing.7"]


def test_a_serializer_says_what_the_event_shows() -> None:
    model = publish_changes(groups="g", serializer=lambda thing: {"t": thing.title}, name="thing")(
        plain("Serialized")
    )
    assert sent(model, "created", title="x") == [("g", "thing.created", {"t": "x"})]


def test_fixtures_publish_nothing() -> None:
    order = Order(pk=7, customer="Ada", item="Lamp", total=Decimal("5.00"), updated_at=now())
    with capture_events() as events:
        order.save_base(raw=True)
    assert events == []


@pytest.mark.parametrize("fields", [["titel"], "titel", ["title", "titel"]])
def test_a_field_that_is_not_there_is_named_with_the_legal_ones(fields: Any) -> None:
    with pytest.raises(FieldDoesNotExist, match=r"'titel'.*It has: id, owner, title\."):
        publish_changes(groups="g", fields=fields)(plain("Misspelt"))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], r"groups=\[\]\) of Grouped: give names"),
        (5, r"groups=5\) of Grouped: give names"),
        ([5], r"groups=\[5\]\) of Grouped: give names"),
        (["g", "order.{nope}"], r"'order\.\{nope\}' names 'nope', but Grouped has none"),
        ("order.{owner.pk", r"'order\.\{owner\.pk' is not a valid pattern: expected '}'"),
        ("order.{}", "names '', but Grouped has none"),
        ("sse.control", "'sse.control': names beginning with 'sse.' are reserved"),
        ("sse.{pk}", "names beginning with 'sse.' are reserved"),
        (["g", "order/{pk}"], "Invalid group name 'order/x'"),
        ("{{g}}", "Invalid group name '{g}'"),
    ],
)
def test_groups_that_can_not_be_filled_are_named(groups: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        publish_changes(groups=groups)(plain("Grouped"))


@pytest.mark.parametrize("name", ["presence", "presence.kept", "sse.x", "two words", "n" * 60])
def test_a_name_that_no_event_can_have_is_refused_where_the_model_is_decorated(name: str) -> None:
    with pytest.raises(ValueError, match="Invalid event name"):
        publish_changes(groups="g", name=name)(plain("Named"))


def test_a_pattern_may_follow_what_a_field_or_property_has() -> None:
    publish_changes(groups=["g.{owner.pk}", "g.{pk:>3}"])(plain("Followed"))


def test_a_serializer_that_can_not_be_called_is_named() -> None:
    with pytest.raises(TypeError, match="serializer='x'"):
        publish_changes(groups="g", serializer="x")  # type: ignore[arg-type]


def test_a_name_that_is_no_event_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'two words'"):
        publish_changes(groups="g", name="two words")(plain("Named"))
