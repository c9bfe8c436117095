"""The data of a broadcast, from what a person typed."""

from __future__ import annotations

import pytest

from sse_app.broadcasts.composition import compose
from sse_app.protocol.events import to_text


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
        ("{'a': 1}", "Invalid JSON"),
        ("NaN", "can't be JSON"),
        ("[1e999]", "can't be JSON"),
        (r'"a\ud800"', "surrogate"),
        (r'["a\ud800"]', "surrogate"),
        ("[" * 100_000, "can't be read"),
        ("9" * 5000, "can't be read"),
        ("\ud800", "Invalid JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_what_is_wrong(typed: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compose("json", typed)


def test_text_goes_out_as_it_is_with_line_feeds() -> None:
    assert compose("text", " {{ now }} <b>\r\n{}\r ") == " {{ now }} <b>\n{}\n "


@pytest.mark.parametrize("kind", ["template", "yaml", ""])
def test_any_other_kind_is_refused_with_its_name(kind: str) -> None:
    with pytest.raises(ValueError, match=f"“{kind}” can't be sent.*publish_template"):
        compose(kind, "{{ sender }}")


@pytest.mark.parametrize(
    ("kind", "typed"),
    [
        ("text", "{% for a in b %}{{ a }}{% endfor %}" * 500),
        ("text", "{{ now|center:100000000 }}"),
        ("text", "\n" * 15_000),
        ("json", "[" + "1e15," * 3000 + "1]"),
        ("json", "[" + "1e-4," * 3000 + "1]"),
        ("json", '"' + "\u007f\u00e9" * 2000 + '"'),
        ("json", '"' + '\\u0001\\"' * 2000 + '"'),
    ],
)
def test_what_goes_out_is_a_small_multiple_of_what_was_typed(kind: str, typed: str) -> None:
    assert len(compose(kind, typed).encode()) <= 5 * len(typed.encode())


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        compose("text", "a\ud800")
    with pytest.raises(ValueError, match="surrogate"):
        to_text("\ud800")
