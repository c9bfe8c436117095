"""`{% live %}` and `{% live_page %}`: what they render, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.template import Context, Template
from django.test import RequestFactory

from sse_app import cursor, live_part, publish


def rendered(tag: str, part: str = "", **context: Any) -> str:
    headers = {"Sse-Live": part} if part else {}
    request = RequestFactory().get("/", headers=headers)
    request.user = AnonymousUser()
    return Template("{% load sse %}" + tag).render(Context({"request": request, **context}))


@pytest.mark.django_db
def test_the_tag_renders_its_content_in_an_element_with_a_stream() -> None:
    html = rendered(
        '{% live "orders" "order.{pk}" pk=pk every=2 events="a b" %}<p>{% endlive %}', pk=5
    )
    script, element = html.split("</script>")
    assert script == '<script type="module" src="/static/sse_app/live.js">'
    assert element.startswith(
        '<sse-live id="live-orders-order.5" for="orders order.5" events="a b" every="2" url="/ev'
    )
    assert element.endswith("><p></sse-live>")


@pytest.mark.django_db(transaction=True)
def test_the_stream_begins_before_the_content_is_rendered() -> None:
    class Rows:
        def __str__(self) -> str:
            publish("orders", "n", 1)
            return "row"

    before = cursor("orders")
    html = rendered('{% live "orders" %}{{ rows }}{% endlive %}', rows=Rows())
    found = re.search(r"last_event_id=([^&\"]+)", html)
    assert found
    assert found[1].split(".")[1] == before.split(".")[1]
    assert "last_event_id=mine" in rendered('{% live "orders" after="mine" %}{% endlive %}')


def test_the_answer_to_a_load_of_the_part_is_the_same_each_time() -> None:
    """A signature, a cursor or a token would give it another ETag."""
    html = rendered('{% live "orders" %}{% endlive %}', part="live-orders")
    assert html.endswith('<sse-live id="live-orders" for="orders"></sse-live>')


@pytest.mark.django_db
def test_the_page_is_marked_in_its_head() -> None:
    html = rendered('{% live_page "orders" announce="" %}')
    assert html.startswith('<meta name="sse-live" id="live-orders" for="orders" announce="" url="')
    assert [*re.findall(r"sse_app/(\S+)\"", html)] == ["live.js", "live-page.js"]


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("", "needs a group"),
        ('"order.{pk}"', "{pk}"),
        ('"order.{}"', "{}"),
        ('"orders" evnts="a"', "evnts"),
        ('"orders" events="sse.open"', "sse.open"),
        ('"orders" every="often"', "often"),
        ('"orders" every=0', "every=0"),
        ('"orders" id="a b"', "a b"),
        ('"no such group"', "no such group"),
    ],
)
def test_a_wrong_option_is_named(tag: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        rendered("{% live " + tag + " %}{% endlive %}")


def test_a_request_says_which_part_it_needs() -> None:
    assert (
        live_part(RequestFactory().get("/", headers={"Sse-Live": "live-orders"})) == "live-orders"
    )
    assert live_part(RequestFactory().get("/")) == ""
