"""What is composed as it goes out, and what a template can't do."""

from __future__ import annotations

import pytest
from django.test import override_settings
from django.utils import timezone, translation

from sse_app.composition import FILTERS, TAGS, compose
from sse_app.events import to_text


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ('{"a": [1, 2.5, "é"]}', '{"a":[1,2.5,"é"]}'),
        ('"<b>Hi</b>"', '"<b>Hi</b>"'),
        ("5", "5"),
        ("null", "null"),
        (' {"a":\n1}\n', '{"a":1}'),
        (r'"\u0000\r"', r'"\u0000\r"'),
        ("", "{}"),
        ("  ", "{}"),
    ],
)
def test_json_goes_out_as_json_without_spaces(typed: str, sent: str) -> None:
    assert compose("json", typed) == sent


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("{", "line 1, column 2"),
        ("{'a': 1}", "no JSON"),
        ("NaN", "can't be JSON"),
        ("[1e999]", "can't be JSON"),
        (r'"a\ud800"', "surrogate"),
        (r'["a\ud800"]', "surrogate"),
        ("[" * 100_000, "can't be read"),
        ("9" * 5000, "can't be read"),
        ("\ud800", "no JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_what_is_wrong(typed: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compose("json", typed)


def test_text_goes_out_as_it_is_with_line_feeds() -> None:
    assert compose("text", " {{ now }} <b>\r\n{}\r ") == " {{ now }} <b>\n{}\n "


def test_a_template_knows_the_time_and_the_sender_and_escapes() -> None:
    year = timezone.localtime().year
    text = '{{ sender|upper }} {{ now|date:"Y" }} {% now "Y" %}{% if sender %}!{% endif %}'
    out = compose("template", text, sender="<ann>")
    assert out == f"&lt;ANN&gt; {year} {year}!"
    assert not hasattr(out, "__html__"), "a page would show it as markup"


def test_a_template_is_rendered_alike_whoever_asks() -> None:
    text = '{{ now|date:"l e" }}'
    with override_settings(LANGUAGE_CODE="de", TIME_ZONE="Asia/Tokyo"):
        here = compose("template", text)
        with translation.override("fr"), timezone.override("America/Lima"):
            assert compose("template", text) == here
    assert here.endswith(" JST")
    assert ("tag" in here) or ("woch" in here)


@pytest.mark.parametrize(
    "text",
    [
        "{% include 'admin/base.html' %}",
        "{% extends 'admin/base.html' %}",
        "{% load static %}",
        "{% load sse %}",
        "{% debug %}",
        "{% url 'admin:index' %}",
        "{% csrf_token %}",
        "{% for a in sender %}{{ a }}{% endfor %}",
        "{% with a=sender %}{{ a }}{% endwith %}",
        "{% lorem 1000000 %}",
        "{% now 'H' as hour %}",
        "{% cycle 'a' 'b' as c %}",
        "{% firstof sender as c %}",
        "{{ sender|add:sender }}",
        "{{ sender|center:100000000 }}",
        "{{ sender|ljust:100000000 }}",
        "{{ now|stringformat:'0100000000d' }}",
        "{{ sender|join:sender }}",
        "{{ sender|addslashes }}",
        "{{ sender|escapejs }}",
        "{{ sender|urlize }}",
        "{{ sender|pprint }}",
        "{{ sender|safe }}",
        "{{ sender.__class__.__mro__ }}",
        "{{ now.__class__ }}",
        "{% if %}",
        "{% if sender %}",
        "{{ sender|nothing }}",
        "{{ }}",
    ],
)
def test_a_template_neither_looks_elsewhere_nor_multiplies(text: str) -> None:
    with pytest.raises(ValueError, match="no template"):
        compose("template", text, sender="ann")


@pytest.mark.parametrize("name", ["settings", "request", "user", "perms", "messages", "block"])
def test_nothing_of_the_project_or_the_request_is_known_to_a_template(name: str) -> None:
    assert compose("template", f"[{{{{ {name} }}}}]", sender="ann") == "[]"


@pytest.mark.parametrize(
    "text",
    [
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% if " + "not " * 15_000 + "1 %}{% endif %}",
        "{% filter upper %}" * 1000 + "{% endfilter %}" * 1000,
    ],
)
def test_a_template_that_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"too deep|can't be rendered"):
        compose("template", text)


def test_what_comes_out_is_a_small_multiple_of_what_was_typed() -> None:
    """For each filter, alone and in a chain; the widest is a date in a long format."""
    for name in FILTERS:
        argument = {"cut": ":'x'", "date": ":'" + "c" * 1000 + "'", "time": ":'" + "u" * 1000 + "'"}
        chain = f"|{name}{argument.get(name, '')}"
        for subject in ("now", "sender"):
            text = f"{{{{ {subject}{chain * 20} }}}}"
            try:
                out = compose("template", text, sender="a<b>\n" * 30)
            except ValueError:
                continue  # A filter that needs an argument.
            assert len(out) <= 40 * len(text) + 40 * 150, name
    assert not {"for", "with", "include", "load", "now"} & set(TAGS)


def test_a_template_that_renders_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        compose("template", "a\ud800")
    with pytest.raises(ValueError, match="surrogate"):
        to_text("\ud800")
