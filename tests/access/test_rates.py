"""Token buckets, and how fast a page may speak."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.test import Client, override_settings

from sse_app import off, on
from sse_app.publishing.inbox import Message
from sse_app.views import throttle
from sse_app.views.throttle import TokenBuckets

EVENT = "test.rate"


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taken(buckets: TokenBuckets, name: str = "ann", tries: int = 100) -> int:
    """How many of `tries` tokens are given at 8 a second and 20 at once."""
    return [buckets.take({name: 1}, rate=8, burst=20) for _ in range(tries)].count(0)


def test_a_burst_is_given_at_once_and_no_more(clock: Clock) -> None:
    assert taken(TokenBuckets(clock)) == 20


def test_tokens_come_back_at_the_rate_up_to_the_burst(clock: Clock) -> None:
    buckets = TokenBuckets(clock)
    taken(buckets)
    clock.now += 1
    assert taken(buckets) == 8
    clock.now += 3600
    assert taken(buckets) == 20


def test_a_refusal_says_when_to_come_back_and_takes_nothing(clock: Clock) -> None:
    buckets = TokenBuckets(clock)
    taken(buckets)
    waits = {buckets.take({"ann": 1}, rate=8, burst=20) for _ in range(50)}
    assert waits == {0.125}
    clock.now += waits.pop()
    assert taken(buckets) == 1


def test_each_name_has_a_bucket_of_its_own(clock: Clock) -> None:
    buckets = TokenBuckets(clock)
    assert (taken(buckets, "ann"), taken(buckets, "bob")) == (20, 20)


def test_a_burst_below_one_still_gives_one(clock: Clock) -> None:
    buckets = TokenBuckets(clock)
    assert buckets.take({"ann": 1}, rate=1, burst=0.5) == 0


def test_full_buckets_are_forgotten(clock: Clock) -> None:
    buckets = TokenBuckets(clock)
    for n in range(1000):
        buckets.take({f"user {n}": 1}, rate=8, burst=20)
        clock.now += 1
    assert len(buckets) <= 2


def test_there_are_never_more_buckets_than_the_most(clock: Clock) -> None:
    buckets = TokenBuckets(clock, most=50)
    for n in range(1000):
        buckets.take({f"user {n}": 1}, rate=8, burst=20)
    assert len(buckets) == 50
    assert taken(buckets, "user 999") == 19


def test_a_wider_name_has_a_larger_share_and_is_charged_too(clock: Clock) -> None:
    buckets = TokenBuckets(clock)

    def take(n: int) -> float:
        return buckets.take({f"session {n}": 1, "address": 4}, rate=8, burst=20)

    assert [take(n) for n in range(100)].count(0) == 80
    assert take(100) == 1 / 32
    assert len(buckets) == 81, "what was refused took nothing, and left nothing"
    clock.now += 1
    assert [take(n) for n in range(200, 300)].count(0) == 32


def test_the_slowest_of_several_names_decides_and_none_is_charged(clock: Clock) -> None:
    buckets = TokenBuckets(clock)
    taken(buckets)
    assert buckets.take({"ann": 1, "address": 4}, rate=8, burst=20) == 0.125
    assert taken(buckets, "address", tries=20) == 20


def test_with_several_names_full_buckets_are_forgotten_as_well(clock: Clock) -> None:
    buckets = TokenBuckets(clock)
    for n in range(1000):
        buckets.take({f"session {n}": 1, f"near {n}": 4, "site": 16}, rate=8, burst=20)
        clock.now += 1
    assert len(buckets) <= 5


# --- POST send/ ---


@pytest.fixture
def handled(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Message]]:
    """What reached the handler, on the test's clock."""
    got: list[Message] = []
    handler = on(EVENT)(got.append)
    monkeypatch.setattr(throttle, "speaker_buckets", TokenBuckets(clock))
    with override_settings(SSE_APP={"PUBLIC_GROUPS": ["orders"], "MAY_SPEAK": f"{__name__}.all_"}):
        yield got
    off(EVENT, handler)


def all_(user: Any, group: str, event: str, request: Any) -> bool:
    return group != "secret"


def speak(client: Client, group: str = "orders", **extra: Any) -> Any:
    body = json.dumps({"group": group, "event": EVENT, "data": 1})
    return client.post("/events/send/", body, content_type="application/json", **extra)


def client_of(name: str) -> Client:
    client = Client()
    client.force_login(User.objects.get_or_create(username=name)[0])
    return client


@pytest.mark.django_db
def test_by_default_twenty_messages_pass_at_once_and_ten_a_second(
    handled: list[Message], clock: Clock
) -> None:
    ann = client_of("ann")
    statuses = [speak(ann).status_code for _ in range(25)]
    assert statuses == [200] * 20 + [429] * 5
    clock.now += 1
    assert [speak(ann).status_code for _ in range(12)].count(200) == 10
    assert len(handled) == 30


@pytest.mark.django_db
def test_too_fast_is_429_in_json_with_whole_seconds_to_wait(handled: list[Message]) -> None:
    ann = client_of("ann")
    with override_settings(SSE_APP={"SPEAK_RATE": 0.4, "SPEAK_BURST": 1}):
        speak(ann)
        answer = speak(ann)
    assert answer.status_code == 429
    assert answer["Retry-After"] == "3"
    assert "0.4" in answer.json()["error"]


@pytest.mark.django_db
def test_the_rate_is_the_users_over_all_sessions_and_nobody_elses(handled: list[Message]) -> None:
    desk, phone, bob = client_of("ann"), client_of("ann"), client_of("bob")
    for _ in range(20):
        speak(desk)
    assert speak(phone).status_code == 429
    assert speak(bob).status_code == 200


@pytest.mark.django_db
def test_what_is_refused_counts_too(handled: list[Message]) -> None:
    ann = client_of("ann")
    statuses = [speak(ann, "secret").status_code for _ in range(22)]
    assert statuses == [403] * 20 + [429] * 2


def _fresh(n: int) -> Client:
    return Client()


def _forged(n: int) -> Client:
    client = Client()
    client.cookies["sessionid"] = f"forged{n:032}"
    return client


@pytest.mark.django_db
@pytest.mark.parametrize("make", [_fresh, _forged])
@pytest.mark.parametrize("engine", ["db", "signed_cookies"])
def test_strangers_share_the_rate_of_their_address_whatever_cookies_they_make_up(
    handled: list[Message], make: Callable[[int], Client], engine: str
) -> None:
    with override_settings(SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}"):
        statuses = [speak(make(n)).status_code for n in range(21)]
        assert statuses == [200] * 20 + [429]
        assert speak(make(99), REMOTE_ADDR="192.0.2.7").status_code == 200


def _in_a_session() -> Client:
    session = SessionStore()
    session["cart"] = 1
    session.save()
    client = Client()
    client.cookies["sessionid"] = session.session_key or ""
    return client


@pytest.mark.django_db
def test_a_stranger_with_a_session_has_a_rate_of_the_session(handled: list[Message]) -> None:
    for _ in range(20):
        speak(Client())
    one, other = _in_a_session(), _in_a_session()
    assert [speak(one).status_code for _ in range(21)] == [200] * 20 + [429]
    assert speak(other).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["127.0.0.1", "8.8.8.8", "2a00:1450::1"])
def test_a_fresh_session_is_no_fresh_rate(handled: list[Message], address: str) -> None:
    statuses = [speak(_in_a_session(), REMOTE_ADDR=address).status_code for _ in range(90)]
    assert statuses == [200] * 80 + [429] * 10
    assert speak(_in_a_session(), REMOTE_ADDR="9.9.9.9").status_code == 200


@pytest.mark.django_db
def test_a_customers_many_ipv6_networks_share_a_rate(handled: list[Message]) -> None:
    def statuses(network: str) -> list[int]:
        return [speak(Client(), REMOTE_ADDR=network.format(n)).status_code for n in range(90)]

    assert statuses("2a00:1450::{:x}") == [200] * 20 + [429] * 70
    assert statuses("2a00:1450:0:{:x}::1").count(200) == 60, "with the 20 of before"
    assert statuses("2a00:1450:0:1{:02x}::1").count(200) == 80, "another customer's"


@pytest.mark.django_db
def test_by_wsgi_too_a_trusted_proxy_names_the_client(handled: list[Message]) -> None:
    trusting = {"TRUSTED_PROXIES": ["127.0.0.1"], "MAY_SPEAK": f"{__name__}.all_"}
    with override_settings(SSE_APP=trusting):
        for n in range(21):
            assert speak(Client(), headers={"X-Forwarded-For": f"9.9.9.{n}"}).status_code == 200
        for _ in range(20):
            speak(Client(), headers={"X-Forwarded-For": "8.8.8.8"})
        assert speak(Client(), headers={"X-Forwarded-For": "8.8.8.8"}).status_code == 429
