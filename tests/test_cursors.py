"""`Cursor`: to and from the opaque id."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_app.cursors import MAX_BYTES, START, Cursor, Position, group_hash, new_epoch

groups = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\Z")
epochs = st.from_regex(r"\A[a-z0-9]{1,16}\Z").filter(lambda epoch: epoch != START.epoch)
offsets = st.integers(0, 10**18 - 1)
positions = st.builds(Position, epochs, offsets)
NOW = 1_800_000_000
many = st.dictionaries(groups, positions, min_size=1, max_size=20)


@given(places=many)
def test_a_cursor_of_up_to_twenty_groups_comes_back_from_its_id(
    places: dict[str, Position],
) -> None:
    cursor = Cursor.of(places, NOW)
    text = str(cursor)
    assert Cursor.parse(text) == cursor
    assert all(cursor.get(group) == place for group, place in places.items())
    assert text.isascii()
    assert re.fullmatch(r"[a-z0-9.-]+", text)
    assert len(text) <= MAX_BYTES == 1024


def test_the_longest_cursor_of_twenty_groups_fits() -> None:
    places = {f"group.{n}": Position("z" * 16, 10**18 - 1) for n in range(20)}
    cursor = Cursor.of(places, NOW)
    assert len(str(cursor)) <= MAX_BYTES
    assert Cursor.parse(str(cursor)) == cursor


@given(text=st.one_of(st.text(st.characters()), st.text("1.-abcdefg234567\n ٣", max_size=80)))
def test_no_text_makes_parse_raise(text: str) -> None:
    cursor = Cursor.parse(text)
    if cursor is not None:
        assert Cursor.parse(str(cursor)) == cursor


@given(places=many, at=st.integers(0, 2000), junk=st.characters())
def test_a_damaged_id_is_read_as_none_or_as_a_cursor_but_never_raises(
    places: dict[str, Position], at: int, junk: str
) -> None:
    text = str(Cursor.of(places, NOW))
    at %= len(text) + 1
    cursor = Cursor.parse(text[:at] + junk + text[at + 1 :])
    assert cursor is None or Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.",
        "2.aaaaaaaa-abc-1",
        "1.aaaaaaaa-abc-1\n",
        "1.aaaaaaaa-abc-01",
        "1.aaaaaaaa-abc--1",
        "1.aaaaaaaa-abc-٣",
        "1.aaaaaaaa-ABC-1",
        "1.aaaaaaaa--1",
        "1.aaaaaaa-abc-1",
        "1.aaaaaaaa-abc-1.",
        "1.aaaaaaaa-abc-1000000000000000000",
        " 1.aaaaaaaa-abc-1",
        "1." + ".".join(["aaaaaaaa-abc-1"] * 100),
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert Cursor.parse(text) is None


def test_a_group_that_is_not_mentioned_has_no_position() -> None:
    assert Cursor().get("orders") is None
    assert Cursor.of({"orders": START}, NOW).get("chat") is None
    assert Cursor.of({"orders": START}, NOW).get("orders") == START == ("0", 0)


def test_an_empty_group_is_noted_with_the_time_it_was_seen_empty() -> None:
    cursor = Cursor.of({"orders": START, "chat": Position("abc", 7)}, NOW + 0.9)
    again = Cursor.parse(str(cursor))
    assert again == cursor
    assert again.get("orders") == START
    assert again.seen_empty_at("orders") == NOW
    assert again.seen_empty_at("chat") is None
    assert again.seen_empty_at("unknown") is None


def test_an_id_does_not_show_the_names_of_its_groups() -> None:
    assert "orders" not in str(Cursor.of({"orders": START}, NOW))
    assert len(group_hash("orders")) == 8


def test_new_epochs_differ_and_fit_an_id() -> None:
    made = {new_epoch() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"[a-z0-9]{1,16}", epoch) for epoch in made)
    assert START.epoch not in made
