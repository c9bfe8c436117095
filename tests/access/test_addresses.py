"""Where a request comes from: the peer, or what a trusted proxy says, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from django.test import override_settings

from sse_app.access.addresses import Address, client_address
from sse_app.checks.settings import check_settings


def scope(
    peer: str | None, header: str = "", name: str = "X-Forwarded-For", *more: str
) -> dict[str, Any]:
    headers = [(name.encode(), value.encode()) for value in (header, *more) if value]
    return {"client": None if peer is None else [peer, 4711], "headers": headers}


def seen(
    asked: dict[str, Any], trusted: Sequence[str] = (), header: str = "X-Forwarded-For"
) -> Address:
    with override_settings(SSE_APP={"TRUSTED_PROXIES": trusted, "PROXY_HEADER": header}):
        return client_address(asked)


def test_without_trusted_proxies_a_header_says_nothing() -> None:
    for peer in ("127.0.0.1", "8.8.8.8"):
        assert seen(scope(peer, "9.9.9.9")).text == peer


@pytest.mark.parametrize(
    ("peer", "limited"),
    [
        ("8.8.8.8", True),
        ("2a00:1450::1", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("10.1.2.3", False),
        ("172.17.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        (None, False),
        ("", False),
        ("no address", False),
    ],
)
def test_limits_by_address_apply_to_public_peers_or_once_proxies_are_named(
    peer: str | None, limited: bool
) -> None:
    assert seen(scope(peer)).limited is limited
    assert seen(scope(peer), ["203.0.113.1"]).limited


@pytest.mark.parametrize(
    ("header", "client"),
    [
        ("9.9.9.9", "9.9.9.9"),
        ("1.1.1.1, 9.9.9.9", "9.9.9.9"),
        ("1.1.1.1,9.9.9.9,10.0.0.7", "9.9.9.9"),
        ("10.0.0.8, 10.0.0.7", "10.0.0.8"),
        ("9.9.9.9:1234", "9.9.9.9"),
        ("[2a00:1450::1]:443", "2a00:1450::1"),
        ("2A00:1450:0:0::1", "2a00:1450::1"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("nonsense", "10.0.0.1"),
        ("9.9.9.9, nonsense", "10.0.0.1"),
        ("nonsense, 9.9.9.9", "9.9.9.9"),
        ("9.9.9.9,", "10.0.0.1"),
        ("1.2.3.4.5", "10.0.0.1"),
        ("[", "10.0.0.1"),
        ("\x00\xff", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_names_the_client_and_what_it_does_not_name_is_its_own(
    header: str, client: str
) -> None:
    assert seen(scope("10.0.0.1", header), ["10.0.0.0/8"]).text == client


def test_a_peer_that_is_not_trusted_names_nobody() -> None:
    assert seen(scope("8.8.8.8", "9.9.9.9"), ["10.0.0.0/8", "unix"]).text == "8.8.8.8"
    assert seen(scope(None, "9.9.9.9"), ["10.0.0.0/8"]).text == ""


def test_a_peer_on_a_unix_socket_is_trusted_when_listed() -> None:
    assert seen(scope(None, "9.9.9.9"), ["unix"]).text == "9.9.9.9"
    assert seen(scope("", "9.9.9.9"), ["unix"]).text == "9.9.9.9"
    assert seen(scope(None), ["unix"]) == Address("", {"unix": 1}, True)


def test_a_header_sent_twice_is_one_list() -> None:
    asked = scope("10.0.0.1", "1.1.1.1", "X-Forwarded-For", "9.9.9.9")
    assert seen(asked, ["10.0.0.1"]).text == "9.9.9.9"


def test_a_header_spelled_with_underscores_is_another_header() -> None:
    asked = scope("10.0.0.1", "9.9.9.9")
    asked["headers"].append((b"x_forwarded_for", b"6.6.6.6"))
    assert seen(asked, ["10.0.0.1"]).text == "9.9.9.9"


def test_another_header_can_be_the_one() -> None:
    asked = scope("10.0.0.1", "9.9.9.9", "X-Real-IP")
    assert seen(asked, ["10.0.0.1"], "X-Real-IP").text == "9.9.9.9"
    assert seen(asked, ["10.0.0.1"]).text == "10.0.0.1"


def test_a_long_list_that_a_client_made_up_is_not_gone_through() -> None:
    asked = scope("10.0.0.1", "9.9.9.9," + "10.0.0.2," * 1000 + "10.0.0.2")
    assert seen(asked, ["10.0.0.0/8"]).text != "9.9.9.9"


def test_ipv6_clients_are_counted_by_their_network_of_64_bits_and_that_of_56() -> None:
    one, two, other, beyond = (
        seen(scope(peer)).shares
        for peer in ("2a00:1450::1", "2a00:1450::ffff:1", "2a00:1450:0:ff::1", "2a00:1450:0:100::1")
    )
    assert one == two == {"2a00:1450::/64": 1, "2a00:1450::/56": 4}
    assert other == {"2a00:1450:0:ff::/64": 1, "2a00:1450::/56": 4}
    assert beyond == {"2a00:1450:0:100::/64": 1, "2a00:1450:0:100::/56": 4}
    assert seen(scope("fe80::1%eth0")).text == "fe80::1"
    assert seen(scope("8.8.8.8")).shares == {"8.8.8.8": 1}
    assert seen(scope("::ffff:8.8.8.8")).shares == {"8.8.8.8": 1}


def test_a_trusted_proxy_that_names_nobody_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        seen(scope("10.0.0.1"), ["10.0.0.1"], "X-Never-Set")
    assert [record.getMessage().count("X-Never-Set") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("given", "id", "named"),
    [
        ({"TRUSTED_PROXIES": ["10.0.0.300"]}, "E008", "'10.0.0.300'"),
        ({"TRUSTED_PROXIES": ["10.0.0.1/8"]}, "E008", "'10.0.0.1/8'"),
        ({"TRUSTED_PROXIES": ["*"]}, "E008", "'*'"),
        ({"TRUSTED_PROXIES": [5]}, "E008", "5"),
        ({"TRUSTED_PROXIES": "10.0.0.1"}, "E008", "'10.0.0.1'"),
        ({"TRUSTED_PROXIES": None}, "E008", "None"),
        ({"PROXY_HEADER": ""}, "E009", "''"),
        ({"PROXY_HEADER": "X_Forwarded_For"}, "E009", "'X_Forwarded_For'"),
        ({"PROXY_HEADER": "X-Real-IP\n"}, "E009", "'X-Real-IP\\n'"),
        ({"PROXY_HEADER": None}, "E009", "None"),
        ({"PROXY_HEADER": "forwarded"}, "E009", "'forwarded'"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], id: str, named: str) -> None:
    with override_settings(SSE_APP=given):
        (message,) = check_settings(None)
    assert message.id == f"sse_app.{id}"
    assert named in message.msg
    assert next(iter(given)) in message.msg
