"""A serializer class of Django REST framework, where that package is installed."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, models
from django.test.utils import CaptureQueriesContext

from sse_app.changes import ChangesManager, publish_changes, suppress_changes
from sse_app.testing import capture_events

from ..shop.models import Customer, Order

serializers: Any = pytest.importorskip("rest_framework.serializers")

pytestmark = pytest.mark.django_db


class ItemSerializer(serializers.ModelSerializer):  # type: ignore[misc]  # it may not be installed
    """A serializer as a project's API has it."""

    customer = serializers.CharField(source="order.customer.name")

    class Meta:
        fields = ["id", "text", "customer"]


class Linked(serializers.ModelSerializer):  # type: ignore[misc]  # it may not be installed
    """A serializer that reads the request, as one with links to files does."""

    url = serializers.SerializerMethodField()

    class Meta:
        fields = ["url"]

    def get_url(self, item: Any) -> str:
        return f"/items/{item.pk}/ {self.context['request']}"


@publish_changes(groups="linked", serializer=f"{__name__}.Linked", name="linked")
@publish_changes(groups="items", serializer=ItemSerializer, related=["order__customer"])
class Item(models.Model):
    """The rows of the shop's lines, by a serializer."""

    order = models.ForeignKey(Order, models.DO_NOTHING, related_name="+")
    text = models.CharField(max_length=40)

    objects = ChangesManager()

    class Meta:
        app_label = "shop"
        db_table = "shop_line"
        managed = False

    def __str__(self) -> str:
        return self.text


ItemSerializer.Meta.model = Linked.Meta.model = Item


@pytest.fixture
def order() -> Order:
    with suppress_changes():
        return Order.objects.create(customer=Customer.objects.create(name="Ann"))


def test_an_event_is_what_the_serializer_says(order: Order) -> None:
    with capture_events() as events:
        item = Item.objects.create(order=order, text="a lamp")
    assert [event.name for event in events] == ["item.created", "linked.created"]
    assert events[1].json() == {"url": f"/items/{item.pk}/ None"}
    assert events[0].json() == ItemSerializer(item).data
    assert events[0].json() == {"id": item.pk, "text": "a lamp", "customer": "Ann"}


def test_many_rows_cost_as_many_queries_as_few(order: Order) -> None:
    counts = []
    for count in 2, 80:
        with capture_events() as events, CaptureQueriesContext(connection) as taken:
            Item.objects.bulk_create(Item(order_id=order.pk, text="a lamp") for _ in range(count))
        assert {event.json().get("customer") for event in events} == {"Ann", None}
        assert len(events) == 2 * count
        counts.append(len(taken))
    assert counts[0] == counts[1]
