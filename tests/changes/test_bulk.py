"""`ChangesManager`: what bulk operations publish, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any
from unittest import mock

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import NotSupportedError, connection, connections, models, transaction
from django.db.models import Case, Count, F, Value, When
from django.db.models.functions import Lower
from django.db.models.signals import pre_delete
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from sse_app.changes import ChangesQuerySet, suppress_changes
from sse_app.publishing import publish as publishing
from sse_app.publishing.publish import publish_numbered
from sse_app.testing import capture_events

from ..shop.models import Book, Customer, Gift, Line, Order, Product
from ..support.servers import connect_postgresql

pytestmark = pytest.mark.django_db(databases=["default", "postgresql"])

Said = list[tuple[str, Any]]


def published(work: Callable[[], Any], using: str = "default") -> Said:
    """What `work` publishes, in order."""
    with capture_events(using=using) as events:
        work()
    return [(event.name, json.loads(event.data)) for event in events]


def orders(count: int, **fields: Any) -> list[Order]:
    """Rows that are there without an event."""
    with suppress_changes():
        made: list[Order] = Order.objects.bulk_create(Order(**fields) for _ in range(count))
    return made


def queries(work: Callable[[], Any]) -> list[str]:
    with CaptureQueriesContext(connection) as taken:
        work()
    return [query["sql"] for query in taken]


def test_bulk_create_publishes_what_single_saves_do() -> None:
    one = published(lambda: Order.objects.create(status="paid", total=3))
    many = published(lambda: Order.objects.bulk_create([Order(status="paid", total=3)] * 1))
    for said in one, many:
        pk = said[0][1].pop("pk")
        assert pk == Order.objects.values_list("pk", flat=True).filter(pk=pk).get()
    assert one == many
    assert one == [("order.created", {"fields": {"customer": None, "status": "paid", "total": 3}})]


def test_bulk_create_by_an_expression_publishes_the_real_value() -> None:
    said = published(lambda: Order.objects.bulk_create([Order(status=Lower(Value("PAID")))]))
    assert [data["fields"]["status"] for _, data in said] == ["paid"]


def test_bulk_create_of_nothing_publishes_nothing() -> None:
    assert published(lambda: Order.objects.bulk_create([])) == []


def test_a_call_is_one_round_trip_to_the_log() -> None:
    calls = {
        "bulk_create": lambda: Order.objects.bulk_create([Order(total=0) for _ in range(1_200)]),
        "bulk_update": lambda: Order.objects.bulk_update(
            [Order(pk=pk, total=1) for pk in Order.objects.values_list("pk", flat=True)], ["total"]
        ),
        "update": lambda: Order.objects.update(total=2),
        "delete": lambda: Order.objects.filter(total=2).delete(),
    }
    for verb, call in calls.items():
        with mock.patch(
            "sse_app.changes.pending.publish_in_transaction",
            wraps=publishing.publish_in_transaction,
        ) as publish:
            assert len(published(call)) == 1_200, verb
        assert publish.call_count == 1, verb


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.django_db(transaction=True)
def test_many_events_are_published_in_portions_and_in_order(
    autocommit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_app.changes.pending.MAX_PENDING", 4)
    with (
        mock.patch(
            "sse_app.changes.pending.publish_in_transaction",
            wraps=publishing.publish_in_transaction,
        ) as done,
        mock.patch(
            "sse_app.publishing.publish.publish_numbered", wraps=publish_numbered
        ) as numbered,
        capture_events() as events,
        nullcontext() if autocommit else transaction.atomic(),
    ):
        made = Order.objects.bulk_create(Order() for _ in range(10))
    assert [len(call.args[0]) for call in done.call_args_list] == [4, 4, 2]
    assert numbered.call_count == autocommit  # of the last: no others wait for a place in the log
    assert [event.json()["pk"] for event in events] == [order.pk for order in made]
    assert [event.offset for event in events] == list(range(1, 11))


def test_what_a_handler_rolled_back_is_not_published() -> None:
    orders(2)

    def fail(**kwargs: Any) -> None:
        with suppress(ZeroDivisionError), transaction.atomic():
            Product.objects.create(title="never")
            Product.objects.all().delete()
            raise ZeroDivisionError

    pre_delete.connect(fail, sender=Order)
    try:
        said = published(lambda: Order.objects.all().delete())
    finally:
        pre_delete.disconnect(fail, sender=Order)
    assert [name for name, _ in said] == ["order.deleted"] * 2


def test_rows_and_events_are_one_transaction() -> None:
    pks = [order.pk for order in orders(2)]
    broken = mock.patch(
        "sse_app.changes.pending.publish_in_transaction", side_effect=RuntimeError("no event")
    )
    for work in (
        lambda: Order.objects.bulk_create([Order(total=9)]),
        lambda: Order.objects.filter(pk__in=pks).update(total=9),
        lambda: Order.objects.bulk_update([Order(pk=pks[0], total=9)], ["total"]),
        lambda: Order.objects.filter(pk__in=pks).delete(),
    ):
        failed = pytest.raises(RuntimeError, match="no event")
        with capture_events() as events, broken, failed, transaction.atomic():
            work()
        assert events == []
        assert list(Order.objects.values_list("pk", "total")) == [(pk, 0) for pk in pks]


def test_update_publishes_the_rows_it_changed_with_old_and_new_values() -> None:
    a, b = orders(2)
    (c,) = orders(1, status="paid")
    (other,) = orders(1)
    work = Order.objects.exclude(pk=other.pk)
    assert published(lambda: work.update(status="paid")) == [
        (
            "order.updated",
            {
                "pk": order.pk,
                "fields": {"customer": None, "status": "paid", "total": 0},
                "changed": {"status": ["new", "paid"]},
            },
        )
        for order in (a, b)
    ]
    assert c.pk not in {a.pk, b.pk}


def test_update_of_what_is_not_chosen_publishes_nothing() -> None:
    orders(2)
    assert published(lambda: Order.objects.update(note="x")) == []
    assert set(Order.objects.values_list("note", flat=True)) == {"x"}


def test_update_returns_how_many_rows_matched() -> None:
    orders(3)
    orders(1, status="paid")
    assert Order.objects.update(status="paid") == 4
    assert Order.objects.filter(status="lost").update(status="paid") == 0


def test_update_that_takes_rows_out_of_its_own_filter_updates_all() -> None:
    with mock.patch("sse_app.changes.pending.ROWS", 2):
        made = orders(5)
        said = published(lambda: Order.objects.filter(status="new").update(status="paid"))
    assert [data["pk"] for _, data in said] == [order.pk for order in made]
    assert not Order.objects.filter(status="new").exists()


@pytest.mark.parametrize("annotated", [False, True])
def test_update_of_what_its_filter_looks_at_in_other_rows_updates_all(annotated: bool) -> None:
    customer = Customer.objects.create(name="Ann")
    orders(5, customer=customer)
    with suppress_changes():
        Order.objects.filter(pk=Order.objects.earliest("pk").pk).update(status="paid")
    rows = Order.objects.filter(customer__in=Customer.objects.filter(orders__status="paid"))
    if annotated:
        rows = rows.annotate(double=F("total") * 2)
    with mock.patch("sse_app.changes.pending.ROWS", 2):
        said = published(lambda: rows.update(status="packed"))
    assert len(said) == 5
    assert {data["fields"]["status"] for _, data in said} == {"packed"}


def test_update_by_an_expression_publishes_the_real_value() -> None:
    orders(1, total=2)
    orders(1, total=5)
    said = published(lambda: Order.objects.update(total=F("total") * 10))
    assert [data["changed"] for _, data in said] == [{"total": [2, 20]}, {"total": [5, 50]}]


def test_update_by_an_annotation_publishes_the_real_value() -> None:
    orders(1, total=2)
    rows = Order.objects.annotate(double=F("total") * 2)
    said = published(lambda: rows.update(total=F("double")))
    assert [data["changed"] for _, data in said] == [{"total": [2, 4]}]


def test_update_across_a_relation_publishes_each_row_once() -> None:
    customer = Customer.objects.create(name="Ann")
    made = orders(2, customer=customer)
    with suppress_changes():
        Line.objects.bulk_create(Line(order=made[0]) for _ in range(3))
    rows = Order.objects.filter(lines__text="", customer__name="Ann")
    assert [d["pk"] for _, d in published(lambda: rows.update(total=1))] == [made[0].pk]
    assert [d["pk"] for _, d in published(lambda: rows.distinct().update(total=2))] == [made[0].pk]


@pytest.mark.parametrize("key", ["pk", "id"])
def test_update_of_the_primary_key_is_refused(key: str) -> None:
    orders(1)
    with pytest.raises(NotSupportedError, match=r"primary key .* suppress_changes\(\)"):
        Order.objects.update(**{key: 7})


def test_update_refuses_what_django_refuses() -> None:
    orders(2)
    with pytest.raises(TypeError, match="slice"):
        Order.objects.all()[:1].update(total=1)
    with pytest.raises(FieldDoesNotExist):
        Order.objects.none().update(totall=1)


def test_a_related_manager_publishes_too() -> None:
    customer = Customer.objects.create(name="Ann")
    made = orders(2, customer=customer)
    orders(1)
    said = published(lambda: customer.orders.update(status="paid"))
    assert [data["pk"] for _, data in said] == [order.pk for order in made]
    said = published(lambda: customer.orders.bulk_create([Order(customer=customer)]))
    assert [name for name, _ in said] == ["order.created"]
    said = published(lambda: customer.orders.clear())
    assert {name for name, _ in said} == {"order.updated"}
    assert [data["changed"] for _, data in said] == [{"customer": [customer.pk, None]}] * 3


def test_adding_to_a_related_manager_goes_by_the_base_manager() -> None:
    customer = Customer.objects.create(name="Ann")
    old, new = orders(2, number=None)
    with suppress_changes():
        Order.objects.filter(pk=new.pk).update(number=5)
        line = Line.objects.create(order=old)
    data = {"pk": line.pk, "for": None}
    moved = [("line.deleted", data), ("line.updated", data)]  # The groups are of the order.
    assert published(lambda: new.lines.add(line)) == moved
    assert published(lambda: customer.orders.add(old)) == []  # it has Django's own
    said = published(lambda: customer.orders.add(new, bulk=False))
    assert [(name, data["pk"]) for name, data in said] == [("order.updated", new.pk)]


def test_bulk_update_publishes_the_rows_that_changed() -> None:
    made = orders(3)
    made[0].status, made[2].total, made[2].status = "paid", 4, "not written"
    rows = [made[0], made[1]]
    said = published(lambda: Order.objects.bulk_update(rows, ["status", "total"]))
    assert [(d["pk"], d["changed"]) for _, d in said] == [(made[0].pk, {"status": ["new", "paid"]})]
    said = published(lambda: Order.objects.bulk_update([made[2]], ["total"]))
    assert [data["changed"] for _, data in said] == [{"total": [0, 4]}]
    assert said[0][1]["fields"]["status"] == "new"


def test_bulk_update_by_expressions_publishes_the_real_values() -> None:
    made = orders(2, total=3)
    made[0].total = F("total") + 1
    made[1].total = Case(When(status="new", then=Value(8)), default=Value(9))  # type: ignore[assignment]
    said = published(lambda: Order.objects.bulk_update(made, ["total"]))
    assert [data["changed"]["total"] for _, data in said] == [[3, 4], [3, 8]]


def test_bulk_update_of_a_row_that_is_gone_publishes_nothing_of_it() -> None:
    gone, here = orders(2)
    with suppress_changes():
        Order.objects.filter(pk=gone.pk).delete()
    gone.total = here.total = 1
    said = published(lambda: Order.objects.bulk_update([gone, here], ["total"]))
    assert [data["pk"] for _, data in said] == [here.pk]


def test_bulk_create_that_updates_conflicts_says_which_is_which() -> None:
    (old,) = orders(1, number=1)
    (same,) = orders(1, number=2, total=7)
    rows = [Order(number=1, total=7), Order(number=2, total=7), Order(number=3, total=7)]
    said = published(
        lambda: Order.objects.bulk_create(
            rows, update_conflicts=True, update_fields=["total"], unique_fields=["number"]
        )
    )
    assert [(name, data.get("changed")) for name, data in said] == [
        ("order.updated", {"total": [0, 7]}),
        ("order.created", None),
    ]
    assert [data["pk"] for _, data in said] == [old.pk, Order.objects.get(number=3).pk]
    assert same.pk not in [data["pk"] for _, data in said]


def test_a_row_that_a_call_names_twice_is_published_once() -> None:
    (order,) = orders(1)
    rows = [Order(number=1, total=1), Order(number=1, total=2)]
    with mock.patch("sse_app.changes.pending.ROWS", 1):
        said = published(
            lambda: Order.objects.bulk_create(
                rows, 1, update_conflicts=True, update_fields=["total"], unique_fields=["number"]
            )
        )
        assert [data["fields"]["total"] for _, data in said] == [2]
        order.total = 3
        said = published(lambda: Order.objects.bulk_update([order, order], ["total"]))
        assert [data["pk"] for _, data in said] == [order.pk]


def test_bulk_create_that_ignores_conflicts_is_refused_before_it_writes() -> None:
    with pytest.raises(NotSupportedError, match=r"ignore_conflicts=True.*suppress_changes\(\)"):
        Order.objects.bulk_create([Order(number=1)], ignore_conflicts=True)
    assert not Order.objects.exists()
    with suppress_changes():
        Order.objects.bulk_create([Order(number=1)] * 1, ignore_conflicts=True)
    assert Order.objects.count() == 1


def test_delete_publishes_each_row_and_what_goes_with_it_once() -> None:
    customer = Customer.objects.create(name="Ann")
    made = orders(2, customer=customer)
    with suppress_changes():
        lines = Line.objects.bulk_create(Line(order=order) for order in made for _ in range(2))
    pks = [line.pk for line in lines]
    said = published(lambda: Order.objects.filter(customer=customer).delete())
    gone = [(name, data["pk"]) for name, data in said]
    assert sorted(gone) == sorted(
        [("line.deleted", pk) for pk in pks] + [("order.deleted", order.pk) for order in made]
    )
    assert [data["for"] for name, data in said if name == "line.deleted"] == ["Ann"] * 4


def test_a_cascade_from_a_model_that_does_not_publish_is_published() -> None:
    customer = Customer.objects.create(name="Ann")
    made = orders(2, customer=customer)
    said = published(lambda: Customer.objects.all().delete())
    assert sorted(data["pk"] for _, data in said) == [order.pk for order in made]


def test_nothing_is_published_within_suppress_changes() -> None:
    def work() -> None:
        with suppress_changes():
            made = orders(2)
            Order.objects.bulk_update(made, ["total"])
            Order.objects.update(total=3)
            Order.objects.all().delete()

    assert published(work) == []


def test_data_and_groups_that_follow_relations_cost_the_same_for_any_number() -> None:
    customer = Customer.objects.create(name="Ann")
    order = orders(1, customer=customer, number=5)[0].pk

    def create(count: int) -> None:
        Line.objects.bulk_create([Line(order_id=order) for _ in range(count)])

    def update(count: int) -> None:
        Line.objects.filter(pk__in=list(Line.objects.values_list("pk", flat=True)[:count])).update(
            text=count
        )

    def delete(count: int) -> None:
        Line.objects.filter(pk__in=Line.objects.values_list("pk", flat=True)[:count]).delete()

    for work in (create, update, delete):
        with capture_events() as events:
            few, many = (
                queries(lambda: work(2)),  # noqa: B023 -- called at once
                queries(lambda: work(90)),  # noqa: B023
            )
        assert len(few) == len(many), work.__name__
        assert len(events) == 92
        assert {(event.group, event.json()["for"]) for event in events} == {("order.5", "Ann")}


def test_a_proxy_publishes_as_its_model_does() -> None:
    said = published(lambda: Gift.objects.bulk_create([Gift(total=1)]))
    assert [name for name, _ in said] == ["order.created"]
    said = published(lambda: Gift.objects.update(total=2))
    assert [data["changed"] for _, data in said] == [{"total": [1, 2]}]
    gift = Gift.objects.get()
    gift.total = 3
    assert [name for name, _ in published(gift.save)] == ["order.updated"]
    assert [name for name, _ in published(gift.delete)] == ["order.deleted"]


def test_a_model_that_inherits_publishes_as_its_parent_does_and_once() -> None:
    made: list[Book] = []
    said = published(lambda: made.append(Book.objects.create(title="Emma", pages=9)))
    (book,) = made
    assert said == [("product.created", {"pk": book.pk, "fields": {"title": "Emma"}})]
    book.title = "Emma, again"
    said = published(book.save)
    assert [data["changed"] for _, data in said] == [{"title": ["Emma", "Emma, again"]}]
    book.pages = 10
    assert published(book.save) == []
    said = published(lambda: Book.objects.filter(pages=10).update(title="Persuasion", pages=11))
    assert [data["changed"] for _, data in said] == [{"title": ["Emma, again", "Persuasion"]}]
    book.title = "Sanditon"
    said = published(lambda: Book.objects.bulk_update([book], ["title"]))
    assert [data["changed"] for _, data in said] == [{"title": ["Persuasion", "Sanditon"]}]
    pk = book.pk
    said = published(lambda: Product.objects.all().delete())
    assert [(name, data["pk"]) for name, data in said] == [("product.deleted", pk)]


def test_deleting_an_heir_publishes_once() -> None:
    with suppress_changes():
        book = Book.objects.create(title="Emma")
    pk = book.pk
    assert [(n, d["pk"]) for n, d in published(book.delete)] == [("product.deleted", pk)]


@pytest.mark.django_db(transaction=True)
async def test_the_async_twins_publish_too() -> None:
    async with capture_events() as events:
        made = await Order.objects.abulk_create([Order(total=1)])
        made[0].total = 2
        await Order.objects.abulk_update(made, ["total"])
        await Order.objects.aupdate(total=3)
        await Order.objects.all().adelete()
    verbs = [event.name.partition(".")[2] for event in events]
    assert verbs == ["created", "updated", "updated", "deleted"]


@pytest.mark.parametrize("using", ["default", "postgresql"])
def test_rows_of_any_database_are_published(using: str) -> None:
    rows = Order.objects.using(using)
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("created", lambda: rows.bulk_create([Order(), Order()])),
        ("updated", lambda: rows.update(total=F("total") + 1)),
        ("updated", lambda: rows.filter(lines__isnull=True).update(status="paid")),
        ("updated", lambda: rows.distinct().update(status="packed")),
        ("updated", lambda: rows.annotate(n=Count("lines")).filter(n=0).update(status="sent")),
        ("updated", lambda: rows.bulk_update([Order(pk=pk, total=9) for pk in keys()], ["total"])),
        ("deleted", lambda: rows.all().delete()),
    ]

    def keys() -> list[int]:
        return list(rows.values_list("pk", flat=True))

    for verb, call in calls:
        said = published(call, using)
        assert [name for name, _ in said] == [f"order.{verb}"] * 2, (verb, said)
        assert using == "default" or not Order.objects.exists()


def test_the_rows_are_locked_where_the_database_can() -> None:
    with suppress_changes():
        Book.objects.using("postgresql").create(title="Emma")
    with CaptureQueriesContext(connections["postgresql"]) as taken:
        published(lambda: Book.objects.using("postgresql").update(title="x"), "postgresql")
    locked = [query["sql"] for query in taken if "FOR NO KEY UPDATE" in query["sql"]]
    assert locked
    assert all("ORDER BY" in sql and " OF " in sql for sql in locked)


@pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])
@override_settings(
    SSE_APP={"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": "postgresql"}}
)
def test_a_save_in_autocommit_is_four_statements_on_postgresql() -> None:
    """It reads the old values, writes the row, adds the event and numbers the event."""
    order = Order(status="new")
    for statements in (3, 4):  # An insert has no old values.
        with capture_events() as events, CaptureQueriesContext(connections["postgresql"]) as taken:
            order.status += "x"
            order.save(using="postgresql")
        ran = [query["sql"] for query in taken if query["sql"] not in ("BEGIN", "COMMIT")]
        assert len(ran) == statements, ran
        assert [event.offset for event in events] == [statements - 2]


@pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])
@pytest.mark.parametrize(
    "change",
    [lambda order: order.save(), lambda order: Order.objects.using("postgresql").update(total=5)],
    ids=["save", "update"],
)
def test_a_change_of_a_row_keeps_no_row_from_being_added_that_refers_to_it(change: Any) -> None:
    order = Order.objects.using("postgresql").create()
    connection = connections["postgresql"]
    with (
        connect_postgresql(connection.settings_dict["NAME"]) as other,
        transaction.atomic(using="postgresql"),
    ):
        order.total = 5
        change(order)
        # The lock that PostgreSQL takes on the row to which a new row refers.
        lock = f"SELECT 1 FROM {Order._meta.db_table} FOR KEY SHARE NOWAIT"
        assert other.execute(lock).fetchall() == [(1,)]


@pytest.mark.parametrize("method", ["bulk_create", "bulk_update", "update", "delete"])
def test_templates_may_not_call_what_django_forbids_them(method: str) -> None:
    ours, theirs = getattr(ChangesQuerySet, method), getattr(models.QuerySet, method)
    assert vars(ours) == vars(theirs)
    assert hasattr(Order.objects, method) == hasattr(Customer.objects, method)


@pytest.mark.django_db(transaction=True)
def test_bulk_create_takes_as_many_queries_for_ninety_rows_as_for_two() -> None:
    few, many = (
        queries(lambda: Order.objects.bulk_create(rows))  # noqa: B023 -- called at once
        for rows in ([Order(status="paid") for _ in range(count)] for count in (2, 90))
    )
    assert len(few) == len(many)
