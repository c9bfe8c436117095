"""Positions, to and from the opaque id."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_app.protocol.cursors import (
    MAX_BYTES,
    START,
    Cursor,
    Position,
    encode_cursor,
    group_hash,
)

groups = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\Z")
epochs = st.from_regex(r"\A[a-z0-9]{1,16}\Z").filter(lambda epoch: epoch != START.epoch)
offsets = st.integers(0, 10**18 - 1)
marks = st.just("") | st.from_regex(r"\A[a-z][a-z0-9]{3}\Z")
positions = st.builds(Position, epochs, offsets, marks)
NOW = 1_800_000_000
many = st.dictionaries(groups, positions, min_size=1, max_size=20)


@given(places=many)
def test_a_cursor_of_up_to_twenty_groups_comes_back_from_its_id(
    places: dict[str, Position],
) -> None:
    text = encode_cursor(places, NOW)
    cursor = Cursor.parse(text)
    assert cursor is not None
    assert len(cursor.positions) == len(places)
    assert all(cursor.get(group) == place for group, place in places.items())
    assert text.isascii()
    assert re.fullmatch(r"[a-z0-9.-]+", text)
    assert len(text) <= MAX_BYTES == 1024


def test_the_longest_cursor_of_twenty_groups_fits() -> None:
    places = {f"group.{n}": Position("z" * 16, 10**18 - 1, "z999") for n in range(20)}
    text = encode_cursor(places, NOW)
    assert len(text) <= MAX_BYTES
    assert Cursor.parse(text) == Cursor({group_hash(group): p for group, p in places.items()})


@given(text=st.one_of(st.text(st.characters()), st.text("1.-abcdefg234567\n ٣", max_size=80)))
def test_no_text_makes_parse_raise(text: str) -> None:
    _is_none_or_places(Cursor.parse(text))


def _is_none_or_places(cursor: Cursor | None) -> None:
    for name, (epoch, offset, mark) in cursor.positions.items() if cursor else ():
        assert re.fullmatch(r"[a-z2-7]{8}", name)
        assert re.fullmatch(r"[a-z0-9]{1,16}", epoch)
        assert 0 <= offset < 10**18
        assert re.fullmatch(r"([a-z][a-z0-9]{3})?", mark)


@given(places=many, at=st.integers(0, 2000), junk=st.characters())
def test_a_damaged_id_is_read_as_none_or_as_a_cursor_but_never_raises(
    places: dict[str, Position], at: int, junk: str
) -> None:
    text = encode_cursor(places, NOW)
    at %= len(text) + 1
    _is_none_or_places(Cursor.parse(text[:at] + junk + text[at + 1 :]))


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
        "1.aaaaaaaa-abc-1abc",
        "1.aaaaaaaa-abc-1abcde",
        "1.aaaaaaaa-abc-1a-cd",
        "1.aaaaaaaa-abc-1Abcd",
        " 1.aaaaaaaa-abc-1",
        "1." + ".".join(["aaaaaaaa-abc-1"] * 100),
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert Cursor.parse(text) is None


def test_a_group_that_is_not_mentioned_has_no_position() -> None:
    assert Cursor().get("orders") is None
    cursor = Cursor.parse(encode_cursor({"orders": START}, NOW))
    assert cursor is not None
    assert cursor.get("chat") is None
    assert cursor.get("orders") == START == ("0", 0, "")


def test_an_empty_group_is_noted_with_the_time_it_was_seen_empty() -> None:
    again = Cursor.parse(encode_cursor({"orders": START, "chat": Position("abc", 7)}, NOW + 0.9))
    assert again is not None
    assert again.get("orders") == START
    assert again.seen_empty_at("orders") == NOW
    assert again.seen_empty_at("chat") is None
    assert again.seen_empty_at("unknown") is None


def test_the_start_of_a_log_keeps_the_mark_of_the_log() -> None:
    start = START._replace(mark="abcd")
    again = Cursor.parse(encode_cursor({"orders": start}, NOW))
    assert again is not None
    assert again.get("orders") == start
    assert again.get("orders") != START
    assert again.seen_empty_at("orders") == NOW


def test_an_id_of_an_older_version_has_no_mark_and_fits_any() -> None:
    old = Cursor.parse(f"1.{group_hash('orders')}-abc-7")
    assert old is not None
    position = old.get("orders")
    assert position is not None
    assert position == Position("abc", 7, "")
    assert position.agrees(Position("abc", 7, "wxyz"))
    assert not position.agrees(Position("abc", 8, "wxyz"))
    assert not Position("abc", 7, "abcd").agrees(Position("abc", 7, "wxyz"))


def test_an_id_with_marks_grows_by_four_characters_a_group() -> None:
    plain = {f"group.{n}": Position("abcdefgh", 7) for n in range(20)}
    marked = {group: position._replace(mark="abcd") for group, position in plain.items()}
    assert len(encode_cursor(marked, NOW)) == len(encode_cursor(plain, NOW)) + 20 * 4


def test_an_id_does_not_show_the_names_of_its_groups() -> None:
    assert "orders" not in encode_cursor({"orders": START}, NOW)
    assert len(group_hash("orders")) == 8
