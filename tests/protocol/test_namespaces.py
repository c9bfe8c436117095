"""The names of groups with a tenant's namespace before them."""

from __future__ import annotations

import json

import pytest
from channels.layers import InMemoryChannelLayer

from sse_app.delivery.snapshots import State, encode_state
from sse_app.protocol.control import closing_block, opening_block, reset_block
from sse_app.protocol.cursors import START, group_hash
from sse_app.protocol.events import Event
from sse_app.protocol.groups import (
    full_name,
    layer_group,
    matches,
    namespace_of,
    own_name,
    scoped,
    validate_full,
)


@pytest.mark.parametrize("namespace", ["", "red", "a_b", "A-1", "x" * 30])
@pytest.mark.parametrize("group", ["orders", "user.5", "a-_.b", "x" * 40])
def test_a_full_name_has_both_parts(namespace: str, group: str) -> None:
    full = full_name(group, namespace)
    assert validate_full(full) == full == full_name(full, namespace)
    assert (namespace_of(full), own_name(full)) == (namespace, group)
    assert (full == group) == (namespace == "")
    assert matches(full, [group])
    assert matches(full, [f"{group[0]}*"])
    assert InMemoryChannelLayer().require_valid_group_name(layer_group(full, "x" * 10))


def test_no_two_pairs_have_the_same_full_name() -> None:
    names = ["a", "a.a", "a-a", "red.a"]
    spaces = ["", "a", "red", "a_a", "a-a", "red-a"]
    full = {full_name(name, space) for name in names for space in spaces}
    assert len(full) == len({group_hash(each) for each in full}) == len(names) * len(spaces)


@pytest.mark.parametrize(
    ("name", "namespace"),
    [
        ("_blue.a", "red"),
        ("_red._red.a", "red"),
        ("_red.sse.control", "red"),
        ("_red.", "red"),
        ("_red", "red"),
        ("_red.a", ""),
        ("sse.control", "red"),
        ("a\n", "red"),
        (5, "red"),
        (None, "red"),
        ("x" * 77, "red"),
    ],
)
def test_another_name_is_refused(name: object, namespace: str) -> None:
    with pytest.raises(ValueError, match="Invalid group name"):
        full_name(name, namespace)


@pytest.mark.parametrize(
    "name", ["_.a", "_red", "_red.", "_a b.c", "_red._blue.a", "_red.sse.x", f"_{'x' * 31}.a"]
)
def test_what_is_no_full_name_is_no_name_inside_the_app(name: str) -> None:
    with pytest.raises(ValueError, match="Invalid group name"):
        validate_full(name)


def test_the_wire_has_the_own_names() -> None:
    event = Event.of("_red.orders", "told", "1")
    assert event.encode("1.x", labelled=True).startswith(b"group: orders\n")
    named = json.dumps(["orders"], separators=(",", ":")).encode()
    for block in (
        opening_block(
            ["_red.orders"], "1.x", connection="", recovered=False, missed=0, retry=(1.0, 1.0)
        ),
        closing_block("auth", groups=["_red.orders"], retry=(1.0, 1.0)),
    ):
        assert b'"groups":' + named in block
    assert b'"group":"orders"' in reset_block("_red.orders", "trimmed", "1.x")
    state = State("_red.orders", START, encode_state("_red.orders", []))
    assert state.encode("1.x", labelled=True).startswith(b"group: orders\n")
    assert b"_red" not in state.encode("1.x", labelled=True)


def test_keys_have_the_namespace_before_them() -> None:
    assert (scoped("5", ""), scoped("5", "red")) == ("5", "_red.5")
