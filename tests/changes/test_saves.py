"""`save()` and `delete()` of a decorated model run as those of any model do, for the project."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections, models, transaction
from django.db.models.signals import post_delete, post_save
from django.test.utils import CaptureQueriesContext

from sse_app.changes import publish_changes
from sse_app.testing import capture_events

from ..shop.models import Book, Line, Order, Product

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def receiver(signal: Any, sender: Any, receive: Callable[..., Any]) -> Iterator[None]:
    """Connect `receive` before all other receivers, as an app does that is loaded first."""

    def received(instance: Any, **kwargs: Any) -> None:
        receive(instance, **kwargs)

    others, signal.receivers = signal.receivers, []
    signal.connect(received, sender=sender)
    signal.receivers += others
    signal.sender_receivers_cache.clear()
    yield
    signal.disconnect(received, sender=sender)


def test_other_connections_see_the_row_while_receivers_run() -> None:
    found: list[int] = []

    def look(order: Order, **kwargs: Any) -> None:
        def count() -> None:
            found.append(Order.objects.filter(pk=order.pk).count())
            connections.close_all()

        elsewhere = threading.Thread(target=count)
        elsewhere.start()
        elsewhere.join()

    with receiver(post_save, Order, look), capture_events() as events:
        Order.objects.create()
    assert found == [1]
    assert [event.name for event in events] == ["order.created"]


def test_a_receiver_that_fails_does_not_take_the_row_along() -> None:
    def fail(order: Order, **kwargs: Any) -> None:
        raise ZeroDivisionError

    failed = pytest.raises(ZeroDivisionError)
    with receiver(post_save, Order, fail), capture_events() as events, failed:
        Order.objects.create()
    assert Order.objects.count() == 1
    assert [event.name for event in events] == ["order.created"]


def test_a_receiver_may_begin_a_durable_transaction() -> None:
    def pay(order: Order, created: bool, **kwargs: Any) -> None:
        if created:
            with transaction.atomic(durable=True):
                Order.objects.filter(pk=order.pk).update(status="paid")

    with receiver(post_save, Order, pay), capture_events() as events:
        Order.objects.create()
    assert [event.name for event in events] == ["order.created", "order.updated"]


def durable(name: str) -> type[models.Model]:
    """A model whose own `save()` and `delete()` are durable transactions."""

    def save(self: Any, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic(durable=True):
            super(model, self).save(*args, **kwargs)

    def delete(self: Any, *args: Any, **kwargs: Any) -> Any:
        with transaction.atomic(durable=True):
            return super(model, self).delete(*args, **kwargs)

    meta = type("Meta", (), {"app_label": "shop", "db_table": "shop_tag", "managed": False})
    members = {"__module__": __name__, "Meta": meta, "save": save, "delete": delete}
    fields = {"name": models.CharField(max_length=40)}
    model = type(name, (models.Model,), {**members, **fields})
    from django.apps import apps

    del apps.all_models["shop"][name.lower()]
    apps.clear_cache()
    return model


def test_a_model_may_save_and_delete_in_a_durable_transaction() -> None:
    model: Any = publish_changes(groups="durable", fields=["name"])(durable("Durable"))
    with capture_events() as events:
        row = model.objects.create(name="a")
        row.name = "b"
        row.save()
        row.delete()
    verbs = [event.name.partition(".")[2] for event in events]
    assert verbs == ["created", "updated", "deleted"]


def test_a_save_by_a_receiver_that_comes_first_is_published_second() -> None:
    def pay(order: Order, **kwargs: Any) -> None:
        if order.status != "paid":
            order.status = "paid"
            order.save()

    with receiver(post_save, Order, pay), capture_events() as events:
        order = Order.objects.create()
        order.status = "new"
        order.total = 5
        order.save()
    said = [(event.name, event.json().get("changed")) for event in events]
    assert said == [
        ("order.created", None),
        ("order.updated", {"status": ["new", "paid"]}),
        ("order.updated", {"status": ["paid", "new"], "total": [0, 5]}),
        ("order.updated", {"status": ["new", "paid"]}),
    ]


@pytest.mark.parametrize("row", [Order, Book])
def test_a_save_within_a_transaction_makes_no_savepoint(row: Any) -> None:
    with transaction.atomic():
        one = row.objects.create()
        with CaptureQueriesContext(connections["default"]) as taken:
            one.save()
            one.delete()
    assert not [query["sql"] for query in taken if "SAVEPOINT" in query["sql"]]


def test_what_can_not_change_the_event_costs_no_query() -> None:
    order = Order.objects.create()
    with CaptureQueriesContext(connections["default"]) as taken, capture_events() as events:
        order.save(update_fields=["note"])
    statements = [query["sql"].split()[0] for query in taken]
    assert (statements, events) == (["UPDATE"], [])


def test_the_rows_of_a_delete_are_published_together_with_its_cascades() -> None:
    order = Order.objects.create()
    Line.objects.bulk_create(Line(order=order) for _ in range(5))
    with CaptureQueriesContext(connections["default"]) as taken, capture_events() as events:
        order.delete()
    assert [event.name for event in events] == [*["line.deleted"] * 5, "order.deleted"]
    assert len([query for query in taken if 'INTO "sse_app_storedevent"' in query["sql"]]) == 1


def test_a_row_that_a_receiver_deletes_meanwhile_is_published_too() -> None:
    orders = [Order.objects.create() for _ in range(2)]
    product = Product.objects.create(title="a")

    def drop(order: Order, **kwargs: Any) -> None:
        Product.objects.filter(pk=product.pk).delete()
        Order(note="new").save()

    with receiver(post_delete, Order, drop), capture_events() as events:
        Order.objects.filter(pk__in=[order.pk for order in orders]).delete()
    names = sorted(event.name for event in events)
    assert names == [*["order.created"] * 2, *["order.deleted"] * 2, "product.deleted"]


def test_a_delete_that_fails_publishes_nothing_and_the_next_one_does() -> None:
    order = Order.objects.create()

    def fail(order: Order, **kwargs: Any) -> None:
        raise ZeroDivisionError

    with capture_events() as events:
        with receiver(post_delete, Order, fail), pytest.raises(ZeroDivisionError):
            order.delete()
        assert Order.objects.filter(pk=order.pk).exists()
        order.delete()
    assert [event.name for event in events] == ["order.deleted"]


def test_old_values_of_a_row_with_two_tables_are_those_before_the_first() -> None:
    both: Any = publish_changes(groups="books", fields=["title", "pages"], name="book")
    book_class = both(
        type(
            "Book2",
            (Product,),
            {
                "__module__": __name__,
                "pages": models.IntegerField(default=0),
                "product_ptr": models.OneToOneField(
                    Product, models.CASCADE, parent_link=True, primary_key=True, related_name="+"
                ),
                "Meta": type(
                    "Meta", (), {"app_label": "shop", "db_table": "shop_book", "managed": False}
                ),
            },
        )
    )
    from django.apps import apps

    del apps.all_models["shop"]["book2"]
    apps.clear_cache()
    book = book_class.objects.create(title="a", pages=1)
    with capture_events() as events:
        book.title, book.pages = "b", 2
        book.save()
    said = {event.name: event.json()["changed"] for event in events}
    title = {"title": ["a", "b"]}
    assert said == {"product.updated": title, "book.updated": {**title, "pages": [1, 2]}}
