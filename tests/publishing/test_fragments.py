"""`publish_template()`: what is rendered, when, and what keeps it from leaving."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.http import HttpRequest
from django.template import TemplateDoesNotExist, TemplateSyntaxError
from django.test import Client

import sse_app
from project.models import Order
from project.orders import HTMX_GROUP, TURBO_GROUP, advance_order, clear_delivered, place_order
from sse_app import apublish_template, publish_template
from sse_app.models import StoredEvent
from sse_app.protocol.events import Event

ROOT = Path(sse_app.__file__).parent.parent
VENDOR = ROOT / "project" / "static" / "project" / "vendor"
ROW = re.compile(r"^\| `(\S+)` \| `(\S+)` \| (\S+) \| `\S+` \| .*`(\S+)` \| `(\w{64})` \|$", re.M)

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "postgresql"])


@pytest.fixture
def templates(settings: Any) -> None:
    """Templates of this test's own, with the processors of the demo."""
    sources = {
        "row.html": "\n  <li>{{ item }}</li>\n\n",
        "who.html": "[{{ request }}{{ user }}{{ messages }}{{ csrf_token }}{% csrf_token %}]",
        "broken.html": "{% if %}",
        "failing.html": "{{ item.fail }}",
        "orders.html": "{% for order in orders %}{{ order.item }};{% endfor %}",
    }
    engine = {
        **settings.TEMPLATES[0],
        "DIRS": [],
        "APP_DIRS": False,
        "OPTIONS": {
            **settings.TEMPLATES[0]["OPTIONS"],
            "loaders": [("django.template.loaders.locmem.Loader", sources)],
        },
    }
    settings.TEMPLATES = [engine]


def stored() -> list[tuple[str, str, str]]:
    return list(StoredEvent.objects.order_by("pk").values_list("group", "name", "data"))


def rows(events: list[Event], group: str) -> list[str]:
    return [event.data for event in events if event.group == group]


@pytest.mark.usefixtures("templates")
def test_a_template_is_rendered_and_its_result_is_the_data(seen: list[Event]) -> None:
    event = publish_template("rows", "row", "row.html", {"item": "<Lamp>"})
    assert (event.group, event.name) == ("rows", "row")
    assert event.data == "<li>&lt;Lamp&gt;</li>"
    assert type(event.data) is str
    assert event.offset is not None
    assert [each.data for each in seen] == [event.data]


@pytest.mark.usefixtures("templates")
async def test_the_twin_renders_what_reads_the_database(seen: list[Event]) -> None:
    await Order.objects.acreate(customer="Ada", item="Lamp", total=1)
    orders = Order.objects.all()
    event = await apublish_template("rows", "row", "orders.html", {"orders": orders})
    assert event.data == "Lamp;"
    assert rows(seen, "rows") == ["Lamp;"]


@pytest.mark.usefixtures("templates")
def test_the_first_of_several_templates_that_exists_is_taken() -> None:
    event = publish_template("rows", "row", ["none.html", "row.html"], {"item": 1})
    assert event.data == "<li>1</li>"


@pytest.mark.usefixtures("templates")
def test_no_context_processor_runs_as_many_read_it() -> None:
    assert publish_template("rows", "row", "who.html").data == "[]"


@pytest.mark.parametrize("name", ["request", "csrf_token"])
@pytest.mark.usefixtures("templates")
def test_what_is_one_visitors_is_refused(name: str, seen: list[Event]) -> None:
    with pytest.raises(ValueError, match=rf"Refused in the context of a fragment: {name}\."):
        publish_template("rows", "row", "row.html", {name: HttpRequest()})
    assert seen == []


@pytest.mark.usefixtures("templates")
def test_there_is_no_argument_for_a_request() -> None:
    with pytest.raises(TypeError, match="request"):
        publish_template("rows", "row", "row.html", request=HttpRequest())  # type: ignore[call-arg]


class Failing:
    @property
    def fail(self) -> str:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("none.html", TemplateDoesNotExist),
        ("broken.html", TemplateSyntaxError),
        ("failing.html", RuntimeError),
    ],
)
@pytest.mark.usefixtures("templates")
def test_what_fails_to_render_raises_and_is_not_published(
    template: str, error: type[Exception], seen: list[Event]
) -> None:
    with pytest.raises(error):
        publish_template("rows", "row", template, {"item": Failing()})
    assert seen == []
    assert stored() == []


@pytest.mark.usefixtures("templates")
def test_names_and_size_are_those_of_publish(settings: Any) -> None:
    with pytest.raises(ValueError, match="group"):
        publish_template("no group", "row", "row.html")
    with pytest.raises(ValueError, match="event name"):
        publish_template("rows", "no event", "row.html")
    settings.SSE_APP = {**settings.SSE_APP, "MAX_EVENT_BYTES": 100}
    with pytest.raises(ValueError, match="100"):
        publish_template("rows", "row", "row.html", {"item": "x" * 100})
    assert stored() == []


@pytest.mark.usefixtures("templates")
def test_it_is_rendered_at_the_call_and_leaves_with_the_commit(seen: list[Event]) -> None:
    with transaction.atomic():
        order = Order.objects.create(customer="Ada", item="Lamp", total=1)
        publish_template("rows", "row", "orders.html", {"orders": [order]})
        order.item = "changed since"
        publish_template("rows", "row", "orders.html", {"orders": Order.objects.all()})
        assert rows(seen, "rows") == []
    assert rows(seen, "rows") == ["Lamp;", "Lamp;"]


@pytest.mark.usefixtures("templates")
def test_a_transaction_that_is_rolled_back_publishes_nothing(seen: list[Event]) -> None:
    with transaction.atomic():
        publish_template("rows", "row", "row.html")
        publish_template("rows", "row", "row.html", durable=False)
        transaction.set_rollback(True)
    assert seen == []
    assert stored() == []


@pytest.mark.usefixtures("templates")
async def test_the_options_of_publish_are_handed_on(seen: list[Event]) -> None:
    await apublish_template("rows", "row", "row.html", {"item": 1}, durable=False, key="one")
    assert [(event.durable, event.key, event.offset) for event in seen] == [(False, "one", None)]


@pytest.mark.usefixtures("templates")
def test_it_joins_the_transaction_of_the_database_that_is_named(seen: list[Event]) -> None:
    with transaction.atomic(using="postgresql"):
        publish_template("rows", "row", "row.html", using="postgresql")
        transaction.set_rollback(True, using="postgresql")
    assert seen == []
    assert stored() == []


def test_the_demo_publishes_a_row_in_the_transaction_that_changes_it(seen: list[Event]) -> None:
    order = place_order()
    while not rows(seen, HTMX_GROUP)[-1].count('data-status="delivered"'):
        advance_order(order.pk)
    clear_delivered(0)
    for group, gone in (
        (HTMX_GROUP, f'<li id="order-{order.pk}" hx-swap-oob="delete"></li>'),
        (TURBO_GROUP, f'<turbo-stream action="remove" target="order-{order.pk}"></turbo-stream>'),
    ):
        first, *_, last = rows(seen, group)
        assert f'id="order-{order.pk}"' in first
        assert last == gone
    before = len(seen)
    with transaction.atomic():
        place_order()
        transaction.set_rollback(True)
    assert len(seen) == before


def test_the_demos_admin_publishes_rows_too(admin_client: Client, seen: list[Event]) -> None:
    order = Order.objects.create(customer="Ada", item="Lamp", total=1)
    form = {"customer": "Ada", "item": "Cup", "status": "paid", "total": "5.00"}
    admin_client.post(f"/admin/project/order/{order.pk}/change/", form)
    (row,) = rows(seen, HTMX_GROUP)
    assert "Cup" in row
    admin_client.post(f"/admin/project/order/{order.pk}/delete/", {"post": "yes"})
    other = Order.objects.create(customer="Ada", item="Lamp", total=1)
    form = {"action": "delete_selected", "_selected_action": str(other.pk), "post": "yes"}
    admin_client.post("/admin/project/order/", form)
    gone = [f'<li id="order-{each}" hx-swap-oob="delete"></li>' for each in (order.pk, other.pk)]
    assert rows(seen, HTMX_GROUP)[1:] == gone
    assert len(rows(seen, TURBO_GROUP)) == 3


@pytest.mark.parametrize("group", [HTMX_GROUP, TURBO_GROUP])
def test_the_demos_rows_are_the_same_for_everybody(
    client: Client, seen: list[Event], group: str
) -> None:
    place_order()
    (row,) = rows(seen, group)
    assert "csrf" not in row
    page = client.get("/htmx/" if group == HTMX_GROUP else "/turbo/").content.decode()
    assert "csrfmiddlewaretoken" in page or "X-CSRFToken" in page


def test_the_libraries_of_others_are_those_that_their_page_names() -> None:
    found = ROW.findall((VENDOR / "README.md").read_text())
    assert len(found) == 3
    assert {name for name, *_ in found} == {file.name for file in VENDOR.glob("*.js")}
    pages = "".join(
        file.read_text()
        for folder, kind in (("templates", "*.html"), ("project/static/project", "*.js"))
        for file in (ROOT / folder).glob(kind)
    )
    guide = (ROOT / "docs" / "publishing" / "fragments.md").read_text()
    for name, package, version, licence, checksum in found:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == checksum, name
        assert version in name
        assert f"vendor/{name}" in pages
        assert f"`{package}` {version}" in guide
        assert (VENDOR / licence).read_text().strip()


def test_the_example_for_datastar_keeps_a_value_with_line_breaks_in_its_element(
    settings: Any, seen: list[Event]
) -> None:
    """And says the same as Datastar's own SDK: mode, selector, then the elements, line by line."""
    guide = (ROOT / "docs" / "publishing" / "fragments.md").read_text().split("\n## Datastar\n")[1]
    names: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1], names)  # type: ignore[index]
    order = Order(pk=1, customer="Ada", item="Lamp\nmode remove\nselector body", total=1)
    names["publish_elements"]("rows", "_row.html", {"order": order}, "prepend", "#rows")
    (event,) = seen
    assert event.name == "datastar-patch-elements"
    first, second, *elements = event.data.split("\n")
    assert (first, second) == ("mode prepend", "selector #rows")
    assert all(line.startswith("elements ") for line in elements)
    assert any("selector body" in line for line in elements)
