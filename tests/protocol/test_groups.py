"""Names of groups for texts of any kind."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sse_app.protocol.groups import group_name, validate_group


@pytest.mark.parametrize("name", ["orders", "user.5", "a" * 80, "user.0c8d-4f_x"])
def test_a_valid_name_stays_as_it_is(name: str) -> None:
    assert group_name(name) == name


@pytest.mark.parametrize(
    "text", ["my room", "user.ann@example.com", "", "ä", "sse.x", "sse.sse.a", "a\n"]
)
def test_each_other_text_has_a_valid_name_that_people_recognize(text: str) -> None:
    assert validate_group(group_name(text))
    assert group_name("my room").startswith("my-room--")
    assert group_name("user.ann@example.com").startswith("user.ann-example.com--")


@given(st.text())
def test_any_text_has_a_valid_name(text: str) -> None:
    assert validate_group(group_name(text)) == group_name(text)


def test_two_texts_never_have_the_same_name() -> None:
    room = group_name("my room")
    assert group_name(room) != room, "a user who calls a room so would listen to the other one"
    assert group_name("my-room") != group_name("my room") != group_name("my  room")
