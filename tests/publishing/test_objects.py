# ruff: noqa: DJ008 -- nobody looks at these rows in an admin
"""Model instances and users where a group's name is needed."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.template import Context, Template
from django.test import RequestFactory, override_settings
from django.test.utils import isolate_apps
from django.utils.functional import SimpleLazyObject

import sse_app
from sse_app import (
    acursor,
    apublish,
    apublish_many,
    cursor,
    disconnect,
    group_name,
    issue_ticket,
    presence,
    progress,
    publish,
    publish_many,
    subscribe,
    user_group,
)
from sse_app.access.authorization import is_granted
from sse_app.access.grants import Grant
from sse_app.access.models import Revocation
from sse_app.changes.publication import Publication
from sse_app.consumers import EventStreamConsumer
from sse_app.protocol.events import Event
from sse_app.testing import capture_events

from ..shop.models import Customer, Gift, Order

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def customer() -> Customer:
    return Customer.objects.create(name="ann")


def rendered(text: str, **context: Any) -> str:
    request = RequestFactory().get("/")
    request.user = context.get("user") or AnonymousUser()
    return Template("{% load sse %}" + text).render(Context({"request": request, **context}))


def test_the_group_of_an_instance_has_its_app_its_model_and_its_key(customer: Customer) -> None:
    assert group_name(customer) == f"shop.customer.{customer.pk}"
    lazy = SimpleLazyObject(lambda: customer)
    assert group_name(lazy) == group_name(customer)
    deferred = Customer.objects.only("pk").get()
    assert group_name(deferred) == group_name(customer)
    order = Order.objects.create()
    assert group_name(Gift.objects.get()) == group_name(order) == f"shop.order.{order.pk}"


@isolate_apps("tests.shop")
def test_a_model_with_a_table_of_its_own_has_names_of_its_own() -> None:
    class Place(models.Model):
        id = models.UUIDField(primary_key=True, default=uuid.uuid4)

        class Meta:
            app_label = "Shop"

    class Cafe(Place):
        class Meta:
            app_label = "Shop"

    class Word(models.Model):
        text = models.CharField(max_length=200, primary_key=True)

        class Meta:
            app_label = "Shop"

    def saved(model: type[models.Model], key: object) -> models.Model:
        instance = model(pk=key)
        instance._state.adding = False
        return instance

    key = uuid.uuid4()
    assert group_name(saved(Place, key)) == f"shop.place.{key}"
    assert group_name(saved(Place, key.hex.upper())) == f"shop.place.{key}"
    assert group_name(saved(Cafe, key.hex)) == f"shop.cafe.{key}"
    assert group_name(saved(Word, "Ab")) == "shop.word.Ab"
    assert group_name(saved(Word, "a b")) == group_name("Shop.word.a b".lower())
    assert group_name(saved(Word, "a b")).startswith("shop.word.a--")
    with pytest.raises(ValueError, match="'x' is not a primary key of Place"):
        group_name(saved(Place, "x"))
    with pytest.raises(ValueError, match="unsaved Place UUID"):
        group_name(Place())


def test_an_unsaved_instance_is_an_error(customer: Customer) -> None:
    for call in (
        lambda one: publish(one, "paid"),
        lambda one: publish_many([(one, "paid", 1)]),
        lambda one: cursor(one),
        lambda one: subscribe(one),
        lambda one: capture_events(one),
        lambda one: progress(one),
        lambda one: disconnect(group=one),
        lambda one: issue_ticket(AnonymousUser(), [one]),
        lambda one: rendered("{% sse_stream one %}", one=one),
    ):
        with pytest.raises(ValueError, match="unsaved Customer None can't name a group"):
            call(Customer())
    customer.delete()
    with pytest.raises(ValueError, match="unsaved Customer None"):
        publish(customer, "gone")
    with pytest.raises(TypeError, match=r"use Event\.of"):
        Event(group=Order.objects.create())  # type: ignore[arg-type]


def test_an_instance_stands_wherever_a_group_is_needed(customer: Customer) -> None:
    group = group_name(customer)
    with capture_events(customer) as seen:
        publish(customer, "paid")
        publish_many([(customer, "paid", 1), (group, "paid", 2)])
        with progress(customer):
            pass
    assert {event.group for event in seen} == {group}
    assert len(seen) == 5
    # The last letters of a cursor are the position, the first ones the group.
    assert cursor(customer) == cursor(group)
    disconnect(group=customer)
    assert Revocation.objects.get().group == group
    assert Grant.to(None, [customer, group]).groups == (group,)
    assert EventStreamConsumer(groups=[customer]).fixed_groups == (group,)
    with pytest.raises(ValueError, match="in a list"):
        issue_ticket(AnonymousUser(), customer)  # type: ignore[arg-type]
    assert issue_ticket(AnonymousUser(), [customer])
    with override_settings(SSE_APP={"PRESENCE_GROUPS": ["shop.customer.*"]}):
        assert presence.members(customer) == []
        assert rendered("{% sse_members one as all %}{{ all|length }}", one=customer) == "0"


async def test_the_async_twins_take_instances_too() -> None:
    customer = await sync_to_async(Customer.objects.create)(name="ann")
    async with capture_events() as seen, subscribe(customer) as events:
        await apublish(customer, "paid")
        await apublish_many([(customer, "sent", "")])
        assert await acursor(customer)
        assert [(await anext(events)).name for _ in range(2)] == ["paid", "sent"]
    assert {event.group for event in seen} == {group_name(customer)}


def test_a_change_is_published_to_the_groups_of_instances(customer: Customer) -> None:
    for groups in (lambda order: order.customer, lambda order: [order.customer]):
        publication = Publication(*(Order, "order", groups, {}, None), only_changed=False)
        order = Order.objects.create(customer=customer)
        assert publication.groups_of(order) == [group_name(customer)]


def test_a_user_has_a_group_that_only_this_user_may_listen_to() -> None:
    user = User.objects.create_user("ann@example.org")
    assert user_group(user) == user_group(user.pk) == f"user.{user.pk}"
    assert user_group("a b") == group_name("user.a b")
    assert is_granted(user, [user_group(user)])
    assert not is_granted(user, [user_group(user.pk + 1)])
    for nobody in (AnonymousUser(), User(), None, True, ""):
        with pytest.raises(ValueError, match="not a user with a primary key"):
            user_group(nobody)
    stateless = User()  # As made of a JSON Web Token: signed in, and without a row.
    assert not is_granted(stateless, ["user.None"])


@override_settings(SSE_APP={"PUBLIC_GROUPS": ["*"]})
def test_a_tag_takes_instances_and_formats_names(customer: Customer) -> None:
    def groups_of(text: str, **context: Any) -> list[str]:
        url = rendered("{% sse_url " + text + " %}", **context)
        return [part.removeprefix("group=") for part in url.partition("?")[2].split("&amp;")]

    assert groups_of("one", one=customer) == [group_name(customer)]
    assert groups_of('"user.{}" 5 "orders"') == ["user.5", "orders"]
    assert groups_of('"a.{}.{b}" one "c.{b}" b=0', one=customer) == [f"a.{customer.pk}.0", "c.0"]
    assert groups_of('"room.{}" "my room"') == [group_name("room.my room")]
    assert groups_of('"orders" "orders"') == ["orders"]
    assert "group=user.5" in rendered('{% sse_stream "user.{pk}" pk=5 %}')


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('"user."|add:5', r'write \{% sse_stream "user\.\{\}" user\.pk %\}'),
        ("missing", "its template variable is empty"),
        ('"user.{}" user.pk', "no value for {}.*is the visitor anonymous|no value for {}"),
        ('"user.{}"', "no value for {}"),
        ('"user.{pk}"', "no value for {pk}"),
        ('"user.{pk}" pk=missing', "no value for {pk}"),
        ('"orders" pk=5', "no option pk"),
        ('"order.{pk.x}" pk=5', "no option pk|no value"),
        ('"order.{" 5', "Single|expected"),
        ('"a b"', "Invalid group name 'a b'"),
    ],
)
def test_the_error_of_a_tag_says_what_to_write(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        rendered("{% sse_url " + text + " %}", user=AnonymousUser())


def test_a_tag_for_members_needs_one_group() -> None:
    with pytest.raises(ValueError, match="needs one group, not 2"):
        rendered('{% sse_members "a" "b" as all %}')
    assert sse_app.user_group is user_group
