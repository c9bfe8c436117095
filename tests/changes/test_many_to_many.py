"""Many-to-many changes, and fixtures: what no `save()` of the row itself tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.core.management import call_command
from django.db import connection, models
from django.test.utils import CaptureQueriesContext

from sse_app.changes import publish_changes, suppress_changes
from sse_app.testing import capture_events

from ..shop.models import Customer, Gift, Membership, Order, Person, Tag, Team

pytestmark = pytest.mark.django_db

Said = list[tuple[str, Any]]


def published(work: Callable[[], Any]) -> Said:
    """What `work` publishes, in order."""
    with capture_events() as events:
        work()
    return [(event.name, json.loads(event.data)) for event in events]


def changed(row: models.Model, event: str = "order.tags.changed", **how: Any) -> tuple[str, Any]:
    """The event of a row whose set changed."""
    return event, {"pk": row.pk, "added": [], "removed": [], "cleared": False, **how}


@pytest.fixture
def tags() -> list[Tag]:
    return [Tag.objects.create(name=name) for name in "abc"]


@pytest.fixture
def orders() -> list[Order]:
    with suppress_changes():
        return [Order.objects.create() for _ in range(2)]


def test_added_and_removed_rows_are_published(orders: list[Order], tags: list[Tag]) -> None:
    order, (a, b, c) = orders[0], tags
    assert published(lambda: order.tags.add(b, a)) == [changed(order, added=[a.pk, b.pk])]
    assert published(lambda: order.tags.remove(a)) == [changed(order, removed=[a.pk])]
    assert published(lambda: order.tags.set([c])) == [
        changed(order, removed=[b.pk]),
        changed(order, added=[c.pk]),
    ]


def test_what_was_there_or_was_not_is_no_change(orders: list[Order], tags: list[Tag]) -> None:
    order, (a, b, _) = orders[0], tags
    with suppress_changes():
        order.tags.add(a)
    assert published(lambda: order.tags.add(a)) == []
    assert published(lambda: order.tags.remove(b)) == []
    assert published(lambda: order.tags.set([a])) == []
    assert published(lambda: order.tags.add(a, b)) == [changed(order, added=[b.pk])]


def test_a_cleared_set_says_what_was_in_it(orders: list[Order], tags: list[Tag]) -> None:
    order = orders[0]
    with suppress_changes():
        order.tags.set(tags)
    said = published(lambda: order.tags.clear())
    assert said == [changed(order, removed=[tag.pk for tag in tags], cleared=True)]
    assert published(lambda: order.tags.clear()) == []


def test_the_other_end_publishes_of_each_order(orders: list[Order], tags: list[Tag]) -> None:
    tag = tags[0]
    work: list[tuple[Callable[[], Any], dict[str, Any]]] = [
        (lambda: tag.orders.add(*orders), {"added": [tag.pk]}),
        (lambda: tag.orders.remove(*orders), {"removed": [tag.pk]}),
        (lambda: tag.orders.set(orders), {"added": [tag.pk]}),
        (lambda: tag.orders.clear(), {"removed": [tag.pk], "cleared": True}),
    ]
    for call, how in work:
        assert published(call) == [changed(order, **how) for order in orders], how


def test_of_a_symmetrical_relation_both_rows_are_published() -> None:
    with suppress_changes():
        ann, bob = Person.objects.create(), Person.objects.create()
    name = "person.friends.changed"
    assert published(lambda: ann.friends.add(bob)) == [
        changed(ann, name, added=[bob.pk]),
        changed(bob, name, added=[ann.pk]),
    ]
    assert published(lambda: bob.friends.clear()) == [
        changed(bob, name, removed=[ann.pk], cleared=True),
        changed(ann, name, removed=[bob.pk], cleared=True),
    ]


def test_a_table_between_with_a_model_of_its_own_publishes_of_both() -> None:
    with suppress_changes():
        team, ann, bob = Team.objects.create(), Person.objects.create(), Person.objects.create()
    name = "team.members.changed"

    def row(event: str, person: Person, role: str) -> tuple[str, Any]:
        fields = {"team": team.pk, "person": person.pk, "role": role}
        return f"membership.{event}", {"pk": pks[person.pk], "fields": fields}

    def add() -> None:
        team.members.add(ann, bob, through_defaults={"role": "keeper"})

    said = published(add)
    pks = dict(Membership.objects.values_list("person", "pk"))
    assert said == [
        row("created", ann, "keeper"),
        row("created", bob, "keeper"),
        changed(team, name, added=[ann.pk, bob.pk]),
    ]
    assert published(lambda: ann.teams.remove(team)) == [
        row("deleted", ann, "keeper"),
        changed(team, name, removed=[ann.pk]),
    ]
    assert published(lambda: team.members.clear()) == [
        row("deleted", bob, "keeper"),
        changed(team, name, removed=[bob.pk], cleared=True),
    ]
    # Written by itself, Django does not say whose set it changed.
    said = published(lambda: Membership.objects.create(team=team, person=ann))
    assert [event for event, _ in said] == ["membership.created"]


def test_a_proxy_and_a_block_that_suppresses(orders: list[Order], tags: list[Tag]) -> None:
    gift = Gift.objects.get(pk=orders[0].pk)
    assert published(lambda: gift.tags.add(tags[0])) == [changed(gift, added=[tags[0].pk])]

    def quiet() -> None:
        with suppress_changes():
            gift.tags.clear()

    assert published(quiet) == []


def test_many_rows_of_the_other_end_cost_as_many_queries_as_few(tags: list[Tag]) -> None:
    with suppress_changes():
        made = Order.objects.bulk_create(Order() for _ in range(60))
    counts = []
    for some in made[:3], made[3:]:
        with capture_events(), CaptureQueriesContext(connection) as taken:
            tags[0].orders.add(*some)
        counts.append(len(taken))
    assert counts[0] == counts[1]


def test_groups_that_follow_relations_cost_the_same_for_any_number() -> None:
    with suppress_changes():
        club = Customer.objects.create(name="chess")
        made = [Person.objects.create(club=club) for _ in range(12)]
    counts = []
    for person, *friends in made[:3], made[3:]:
        with capture_events() as events, CaptureQueriesContext(connection) as taken:
            person.friends.add(*friends)
        assert [event.group for event in events] == ["chess"] * (1 + len(friends))
        counts.append(len(taken))
    assert counts[0] == counts[1]


def test_a_field_that_is_no_many_to_many_is_refused_with_the_legal_ones() -> None:
    for option, legal in (("m2m", "tags"), ("related", "customer, tags")):
        with pytest.raises(FieldDoesNotExist, match=rf"{option}=….*'status'.*It has: {legal}\."):
            publish_changes(groups="g", **{option: ["status"]})(Order)  # type: ignore[arg-type]


def test_an_abstract_model_is_refused() -> None:
    meta = type("Meta", (), {"abstract": True, "app_label": "shop"})
    model = type("Thing", (models.Model,), {"__module__": __name__, "Meta": meta})
    with pytest.raises(TypeError, match="Thing: it is abstract"):
        publish_changes(groups="g")(model)


def test_a_fixture_is_published_where_raw_asks_for_it(tmp_path: Path) -> None:
    fixture = tmp_path / "rows.json"
    rows = [
        {"model": "shop.order", "pk": 1, "fields": {"status": "paid"}},
        {"model": "shop.product", "pk": 1, "fields": {"title": "Emma"}},
        {"model": "shop.book", "pk": 1, "fields": {"pages": 9}},
    ]
    fixture.write_text(json.dumps(rows))
    said = published(lambda: call_command("loaddata", str(fixture), verbosity=0))
    assert said == [("product.created", {"pk": 1, "fields": {"title": "Emma"}})]
    rows[1]["fields"]["title"] = "Persuasion"  # type: ignore[index]
    fixture.write_text(json.dumps(rows))
    said = published(lambda: call_command("loaddata", str(fixture), verbosity=0))
    assert [(n, d["changed"]) for n, d in said] == [
        ("product.updated", {"title": ["Emma", "Persuasion"]})
    ]
