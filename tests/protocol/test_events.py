"""`Event`: what goes in comes out of an independent parser, and nothing invalid gets in."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import itertools
import json
import math
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_app.protocol.cursors import Position, encode_cursor
from sse_app.protocol.events import (
    BATCH_TYPE,
    HEARTBEAT,
    MESSAGE_TYPE,
    Event,
    encode_control,
    to_text,
    validate_name,
    validate_published,
)
from sse_app.protocol.groups import matches, validate_group, validate_pattern

from ..support.parser import Parsed, Parser

NASTY = ["\r", "\n", "\r\n", "\0", "\ufeff", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", " ", ":"]
texts = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=8)), max_size=12).map("".join)
names = st.from_regex(r"\A[A-Za-z0-9_.:-]{1,64}\Z").filter(lambda name: name[:4] != "sse.")
groups = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\Z").filter(lambda g: g[:4] != "sse.")
epochs = st.from_regex(r"\A[a-z0-9]{1,16}\Z").filter(lambda epoch: epoch != "0")
offsets = st.integers(1, 10**18 - 1)
ids = st.builds(
    lambda group, epoch, offset: encode_cursor({group: Position(epoch, offset)}, 0),
    groups,
    epochs,
    offsets,
)


def as_seen(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(wire: bytes, cuts: list[int] | None = None) -> Parser:
    parser = Parser()
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts or []), len(wire)]
    for start, end in itertools.pairwise(edges):
        parser.feed(wire[start:end])
    return parser


@given(name=names, data=texts, id=st.one_of(st.just(""), ids), cuts=st.lists(st.integers(0, 10**4)))
def test_an_event_comes_out_of_a_parser_as_it_went_in(
    name: str, data: str, id: str, cuts: list[int]
) -> None:
    wire = Event.of("g", name, data).encode(id)
    parser = parse(wire, cuts)
    assert parser.events == [Parsed(name, as_seen(data), id)]
    assert (parser.comments, parser.retry, parser.last_id) == (0, None, id)


@given(events=st.lists(st.tuples(names, texts), max_size=5), cuts=st.lists(st.integers(0, 10**4)))
def test_many_events_and_heartbeats_in_one_stream_stay_apart(
    events: list[tuple[str, str]], cuts: list[int]
) -> None:
    wire = b"".join(HEARTBEAT + Event.of("g", name, data).encode() for name, data in events)
    parser = parse(wire, cuts)
    assert parser.events == [Parsed(name, as_seen(data), "") for name, data in events]
    assert parser.comments == len(events)


def test_a_heartbeat_is_a_comment_and_ends_no_block() -> None:
    assert (HEARTBEAT[:1], HEARTBEAT.count(b"\n")) == (b":", 1)


@given(data=texts)
def test_the_wire_is_utf_8_without_a_bom_and_with_line_feeds_only(data: str) -> None:
    wire = Event.of("g", "n", data).encode("1.x")
    assert b"\r" not in wire
    assert not wire.startswith(b"\xef\xbb\xbf")
    assert wire.endswith(b"\n\n")
    assert "\n\n" not in wire.decode()[:-2]


@pytest.mark.parametrize("data", ["", " ", "  two", "\n", "\n\n", "a\r\rb", "\ufeffbom", "id: 5"])
def test_awkward_text_survives(data: str) -> None:
    assert parse(Event.of("g", "n", data).encode()).events[0].data == as_seen(data)


def test_the_default_name_is_left_out_of_the_wire() -> None:
    assert Event.of("g", "message", "x").encode("7") == b"data: x\nid: 7\n\n"
    assert Event.of("g", "named", "x").encode() == b"event: named\ndata: x\n\n"


@pytest.mark.parametrize(
    "wire",
    [
        Event.of("g", "n", "a\nb").encode("7"),
        Event.of("g", "message", "").encode("7"),
        encode_control("sse.reset", {}, id="7", retry=1),
    ],
)
def test_the_id_is_the_last_line_so_that_half_a_block_moves_nobody(wire: bytes) -> None:
    assert wire.endswith(b"\nid: 7\n\n")


def test_the_data_of_an_event_is_what_clients_will_see() -> None:
    assert Event.of("g", "n", "a\r\nb\rc\u2028d").data == "a\nb\nc\u2028d"


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
).filter(lambda value: not isinstance(value, str))


@given(data=json_values)
def test_everything_but_text_goes_out_as_json(data: Any) -> None:
    event = Event.of("g", "n", data)
    assert event.json() == data
    assert "\n" not in event.data
    assert parse(event.encode()).events[0].json() == data


def test_json_is_djangos() -> None:
    data = {
        "at": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "price": Decimal("1.50"),
        "id": uuid.UUID(int=1),
        "name": "é",
    }
    assert Event.of("g", "n", data).data == (
        '{"at":"2026-01-02T03:04:05Z","price":"1.50",'
        '"id":"00000000-0000-0000-0000-000000000001","name":"é"}'
    )


@pytest.mark.parametrize("data", ["\ud800", "ok\udfff", {"deep": ["\ud83d"]}, {"\udc00": 1}])
def test_a_lone_surrogate_is_refused_and_shown(data: Any) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate '\\ud"):
        Event.of("g", "n", data)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="can't be JSON"):
        Event.of("g", "n", {"n": number})


@pytest.mark.parametrize("data", [object(), b"bytes", {1, 2}, {(1, 2): 3}])
def test_what_cannot_be_json_is_refused_with_its_type(data: Any) -> None:
    with pytest.raises(TypeError, match=type(data).__name__):
        Event.of("g", "n", data)


def test_circular_data_is_refused() -> None:
    data: list[Any] = []
    data.append(data)
    with pytest.raises(ValueError, match="can't be JSON"):
        to_text(data)


def test_an_event_made_without_of_cannot_hold_what_no_stream_can_carry() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        Event(group="g", name="n", data="\ud800")


@pytest.mark.parametrize("data", ["a\rb", "a\r\nb"])
def test_an_event_made_without_of_has_no_carriage_return(data: str) -> None:
    try:
        event = Event(group="g", name="n", data=data)
    except ValueError:
        return
    assert event.data == "a\nb"


BAD = ["a\n", "٣", "", "a" * 81, "sse.x", "a b", "a/b", "é", "a\0", "\n", None, 5, b"a", ["a"]]


@pytest.mark.parametrize("value", [*BAD, ".a", "-a", "_a", "a:b"])
def test_an_invalid_group_is_refused_and_shown(value: Any) -> None:
    for refuse in (validate_group, lambda group: Event.of(group, "n", "")):
        with pytest.raises(ValueError, match="Invalid group name") as caught:
            refuse(value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [*BAD, "a" * 65, "sse.open"])
def test_an_invalid_event_name_is_refused_and_shown(value: Any) -> None:
    for refuse in (validate_name, lambda name: Event.of("g", name, "")):
        with pytest.raises(ValueError, match="Invalid event name") as caught:
            refuse(value)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["presence.join", "presence.leave", "presence.", "presence.x"])
def test_an_event_of_the_app_is_listened_to_and_not_published(value: str) -> None:
    assert validate_name(value) == value
    assert Event(group="g", name=value) == Event.of_app("g", value, "")
    for refuse in (validate_published, lambda name: Event.of("g", name, "")):
        with pytest.raises(ValueError, match="only the app publishes") as caught:
            refuse(value)
        assert repr(value) in str(caught.value)


def test_the_control_group_is_the_apps_own() -> None:
    assert Event.of_app("sse.control", "revoked", {}).group == "sse.control"
    with pytest.raises(ValueError, match=r"'sse\.control'.*reserved"):
        Event.of("sse.control", "revoked", {})


@pytest.mark.parametrize("value", ["", "a b", "chat.[ab]", "chat.?", "é*", "*\n", None, 5])
def test_an_invalid_pattern_is_refused_and_shown(value: Any) -> None:
    with pytest.raises(ValueError, match="Invalid group pattern") as caught:
        validate_pattern(value)
    assert repr(value) in str(caught.value)


@given(group=groups, name=names)
def test_every_documented_name_is_taken(group: str, name: str) -> None:
    event = Event.of(group, name, "")
    assert (event.group, event.name) == (group, name)


def test_a_pattern_matches_whole_names_only() -> None:
    assert matches("chat.lobby", ["orders", "chat.*"])
    assert not matches("xchat.lobby", ["chat.*"])
    assert not matches("orders.1", ["orders"])
    assert not matches("Orders", ["orders"])
    assert not matches("orders", [])


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"data": 5}, TypeError),
        ({"key": 5}, TypeError),
        ({"offset": 1}, ValueError),
        ({"epoch": "a"}, ValueError),
    ],
)
def test_an_event_with_fields_that_do_not_fit_cannot_be_made(
    fields: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        Event(group="g", **fields)


placed_events = st.builds(
    lambda group, name, data, epoch, offset: Event.of(group, name, data).at(epoch, offset),
    groups,
    names,
    texts,
    epochs,
    offsets,
)
passing_events = st.builds(
    lambda group, name, data, key: Event.of(group, name, data, durable=False, key=key),
    groups,
    names,
    texts,
    st.one_of(st.none(), st.text()),
)


@given(event=st.one_of(placed_events, passing_events))
def test_an_event_goes_through_a_channel_layer_message_and_back(event: Event) -> None:
    message = event.to_message()
    assert message["type"] == MESSAGE_TYPE
    assert Event.from_message(message) == event


def test_a_foreign_message_without_an_offset_is_a_non_durable_event() -> None:
    event = Event.from_message({"type": "sse.event", "group": "g", "data": {"a": 1}})
    assert event == Event(group="g", name="message", data='{"a":1}', durable=False)


junk = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters()),
        st.binary(),
        st.sampled_from(["g", "orders", "n", "0", 1, "\ud800"]),
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)
fields = st.sampled_from(["type", "group", "event", "data", "offset", "epoch", "key"])
messages = st.one_of(
    st.dictionaries(fields, junk),
    st.dictionaries(fields, junk).map(lambda message: {"group": "g", "event": "n", **message}),
)


@given(message=messages)
def test_a_malformed_message_raises_value_or_type_error_and_nothing_else(
    message: dict[str, Any],
) -> None:
    try:
        event = Event.from_message(message)
    except (ValueError, TypeError):
        return
    event.encode("1.x")


@pytest.mark.parametrize(
    ("epoch", "offset"),
    [
        ("a\ndata: injected\n", 1),
        ("é", 1),
        ("a b", 1),
        ("a.b-c", 1),
        ("x" * 1000, 1),
        ("0", 1),
        ("abc", 10**18),
        ("abc", 0),
        ("abc", -1),
        ("abc", True),
        ("abc", 1.0),
        ("abc", "1"),
        (5, 1),
        ("", 1),
        (None, 1),
        ("abc", None),
    ],
)
def test_a_message_whose_place_no_cursor_can_hold_is_malformed(epoch: Any, offset: Any) -> None:
    message = {"group": "g", "event": "n", "data": "x", "epoch": epoch, "offset": offset}
    with pytest.raises((ValueError, TypeError)):
        Event.from_message(message)


@given(data=json_values, id=st.one_of(st.just(""), ids), retry=st.floats(0, 3600))
def test_a_control_event_holds_its_data_and_nothing_more(data: Any, id: str, retry: float) -> None:
    parser = parse(encode_control("sse.open", data, id=id, retry=retry))
    assert [(event.name, event.json(), event.id) for event in parser.events] == [
        ("sse.open", data, id)
    ]
    assert parser.retry == round(retry * 1000)


@given(text=texts)
def test_a_control_event_cannot_be_injected_through_its_data(text: str) -> None:
    data = {"reason": text + "\n\nevent: evil\ndata: x\n\n"}
    parser = parse(encode_control("sse.close", data))
    assert [(event.name, event.json()) for event in parser.events] == [("sse.close", data)]


def test_the_two_message_types_differ() -> None:
    assert MESSAGE_TYPE != BATCH_TYPE


def test_json_of_text_that_is_none_raises_value_error() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        Event.of("g", "n", "plain").json()
    assert json.loads(Event.of("g", "n", None).data) is None


@given(data=texts, most=st.integers(0, 1000))
def test_the_limit_is_on_the_bytes_on_the_wire(data: str, most: int) -> None:
    event = Event.of("g", "n", data)
    if len(event.block) > most:
        with pytest.raises(ValueError, match=f"has {len(event.block)} bytes"):
            event.limited(most)
    else:
        assert event.limited(most) is event


def test_an_event_at_its_place_differs_by_its_place_only() -> None:
    event = Event.of("g", "n", "x", key="k")
    placed = event.at("abc", 5)
    assert placed == dataclasses.replace(event, epoch="abc", offset=5)
    assert (event.epoch, event.offset) == (None, None)
    assert placed.block == event.block


@pytest.mark.parametrize(("epoch", "offset"), [("a b", 1), ("", 1), ("abc", 0), ("abc", 10**18)])
def test_an_event_is_at_no_place_that_no_cursor_can_hold(epoch: str, offset: int) -> None:
    with pytest.raises(ValueError, match=r"Invalid (epoch|offset)"):
        Event.of("g", "n", "x").at(epoch, offset)


def test_an_event_is_a_value_that_is_its_own_copy() -> None:
    event = Event.of("g", "n", "x")
    assert copy.deepcopy({"events": [event]})["events"][0] is event
