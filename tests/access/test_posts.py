"""What is checked of a POST before its view: the site that asks, and what the project has not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import Client, RequestFactory, override_settings
from django.utils import timezone

from sse_app import off, on
from sse_app.access.grants import Grant
from sse_app.access.tokens import create_token
from sse_app.models import AccessToken, Broadcast, HandledMessage
from sse_app.protocol.events import Event
from sse_app.publishing.inbox import Message
from sse_app.views import access, send

pytestmark = pytest.mark.django_db(transaction=True)

EVENT = "test.post"
SEND = json.dumps({"group": "orders", "event": EVENT, "data": 1})
OTHERS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site", "Origin": "https://other.testserver"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    {"Sec-Fetch-Site": "something-new"},
    {"Sec-Fetch-Site": ""},
]
OURS: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.fixture
def handled() -> Iterator[list[Message]]:
    """What reached the handler; strangers may speak."""
    got: list[Message] = []
    handler = on(EVENT)(got.append)
    given = {"PUBLIC_GROUPS": ["orders"], "MAY_SPEAK": f"{__name__}.all_"}
    with override_settings(SSE_APP=given):
        yield got
    off(EVENT, handler)


def all_(*given: Any) -> bool:
    return True


class Page:
    """A client with the CSRF token that a page has."""

    def __init__(self, user: User | None = None, *, csrf: bool = True) -> None:
        self.client = Client(enforce_csrf_checks=csrf, raise_request_exception=False)
        if user is not None:
            self.client.force_login(user)
        self.client.cookies["csrftoken"] = self.token = "a" * 32

    def post(self, path: str, body: Any = SEND, **headers: str) -> Any:
        given: dict[str, Any] = {"headers": {"X-CSRFToken": self.token, **headers}}
        if isinstance(body, str):
            given["content_type"] = "application/json"
        return self.client.post(path, body, **given)


def bodies() -> dict[str, str]:
    grant = Grant.to(AnonymousUser(), ["orders"]).sign()
    return {
        "/events/send/": SEND,
        "/events/ticket/": json.dumps({"groups": ["orders"]}),
        "/events/renew/": json.dumps({"grant": grant}),
    }


@pytest.mark.parametrize("headers", OTHERS)
def test_what_another_sites_page_posts_is_403_before_its_body_is_read(
    handled: list[Message], headers: dict[str, str]
) -> None:
    assert Page().post("/events/send/", **headers).status_code == 403
    page = Page(csrf=False)  # A token has leaked, or the project has switched that check off.
    for path in bodies():
        answer = page.post(path, "{" * 1000, **headers)
        assert answer.status_code == 403, path
        assert "Sec-Fetch-Site" in answer.json()["error"]
        assert "CSRF_TRUSTED_ORIGINS" in answer.json()["error"]
    assert handled == []


@pytest.mark.parametrize("headers", OURS)
def test_what_a_page_of_ours_or_a_program_posts_is_taken(
    handled: list[Message], headers: dict[str, str]
) -> None:
    for path, body in bodies().items():
        assert Page().post(path, body, **headers).status_code == 200, path
    assert len(handled) == 1


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://app.example.com", 200),
        ("https://www.example.org", 200),
        ("https://a.b.example.org", 200),
        ("http://app.example.com", 403),
        ("https://example.com", 403),
        ("https://app.example.com.evil.example", 403),
        ("https://evilexample.org", 403),
        ("https://app.example.com:444", 403),
        ("", 403),
    ],
)
@override_settings(CSRF_TRUSTED_ORIGINS=["https://app.example.com", "https://*.example.org"])
def test_a_page_of_a_trusted_origin_may_post(
    handled: list[Message], origin: str, status: int
) -> None:
    answer = Page().post("/events/send/", **{"Sec-Fetch-Site": "same-site", "Origin": origin})
    assert answer.status_code == status


def test_a_page_of_an_allowed_origin_may_post(handled: list[Message], settings: Any) -> None:
    settings.SSE_APP = {**settings.SSE_APP, "ALLOWED_ORIGINS": ["https://app.example.com"]}
    settings.CSRF_TRUSTED_ORIGINS = []
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example.com"}
    # Django's own check knows only the other list.
    assert Page(csrf=False).post("/events/send/", **headers).status_code == 200


def test_a_program_with_a_token_may_be_a_page_of_any_site(handled: list[Message]) -> None:
    text = create_token("p", publish=["*"], events=["*"], lifetime=timedelta(days=1))[1]
    headers = {"Authorization": f"Bearer {text}", "Sec-Fetch-Site": "cross-site"}
    client = Client(enforce_csrf_checks=True)
    answer = client.post("/events/publish/", SEND, content_type="application/json", headers=headers)
    assert answer.status_code == 202


# --- the admin ---


@pytest.mark.parametrize("headers", OTHERS)
def test_the_admins_posts_of_another_site_are_403(
    seen: list[Event], headers: dict[str, str]
) -> None:
    page = Page(User.objects.create_superuser("root"), csrf=False)
    row = Broadcast.objects.create(
        groups=["g"], event="n", kind="text", send_at=timezone.now() + timedelta(hours=1)
    )
    token, _ = create_token("p", lifetime=timedelta(days=1))
    composed = {"groups": "g", "event": "n", "kind": "text", "body": "x", "_confirm": "1"}
    posts: dict[str, dict[str, Any]] = {
        "broadcast/add/": composed,
        "broadcast/": {"action": "cancel_selected", "_selected_action": [row.pk]},
        "serverprocess/end/": {"user": "1"},
        "serverprocess/group/g/replay/1/": {"target": "g"},
        "accesstoken/": {"action": "revoke_selected", "_selected_action": [token.pk]},
        f"accesstoken/{token.pk}/delete/": {"post": "yes"},
    }
    for path, form in posts.items():
        answer = page.post(f"/admin/sse_app/{path}", form, **headers)
        assert answer.status_code == 403, path
        assert b"Sec-Fetch-Site" in answer.content, path
    row.refresh_from_db()
    assert (row.state, seen) == ("scheduled", [])
    assert AccessToken.objects.get().revoked_at is None
    own = page.post("/admin/sse_app/broadcast/add/", composed, **{"Sec-Fetch-Site": "same-origin"})
    assert own.status_code == 302
    assert len(seen) == 1


# --- what a project has not ---


@pytest.mark.parametrize("user", [None, "ann"])
@override_settings(MIDDLEWARE=[])
def test_without_any_middleware_nothing_is_500(handled: list[Message], user: str | None) -> None:
    """No session, no user, and no CSRF check but the views' own."""
    signed_in = User.objects.create_user(user) if user else None
    page = Page()
    if signed_in is not None:
        # As a middleware of the project's own sets it, by a header, without any session.
        path = f"{__name__}.sign_in"
        with override_settings(MIDDLEWARE=[path]):
            statuses = {path: page.post(path, body).status_code for path, body in bodies().items()}
            once = page.post("/events/send/", **{"Idempotency-Key": "k"})
    else:
        statuses = {path: page.post(path, body).status_code for path, body in bodies().items()}
        once = page.post("/events/send/", **{"Idempotency-Key": "k"})
    assert statuses == dict.fromkeys(bodies(), 200)
    assert once.status_code == 200
    assert {message.user.is_authenticated for message in handled} == {user is not None}
    assert page.client.get("/events/health/").status_code in (200, 503)
    assert page.client.get("/events/metrics/").status_code == 403


def sign_in(get_response: Any) -> Any:
    def middleware(request: Any) -> Any:
        request.user = User.objects.get(username="ann")
        return get_response(request)

    return middleware


class TokenUser:
    """As a middleware makes one from a token: no instance of the model."""

    is_authenticated = is_active = True

    def __init__(self, pk: int) -> None:
        self.pk = pk


@pytest.mark.parametrize(("whose", "status"), [("ann", 200), ("nobody", 403), (None, 200)])
def test_a_ticket_is_for_a_user_with_a_row_or_for_nobody(whose: str | None, status: int) -> None:
    pk = User.objects.create_user("ann").pk if whose == "ann" else 999
    request = RequestFactory().post(
        "/events/ticket/", {"groups": ["orders"]}, content_type="application/json"
    )
    request.user = TokenUser(pk) if whose else None  # type: ignore[assignment]
    request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
    assert access.ticket(request).status_code == status


def test_a_request_without_the_address_of_its_peer_is_no_500(handled: list[Message]) -> None:
    """As a WSGI server on a Unix socket makes them."""
    for path, view in (("send", send.send), ("ticket", access.ticket), ("renew", access.renew)):
        body = bodies()[f"/events/{path}/"]
        request = RequestFactory().post("/", body, content_type="application/json")
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
        del request.META["REMOTE_ADDR"]
        assert view(request).status_code == 200


def test_a_stranger_of_djangos_test_client_with_an_idempotency_key_is_told(
    handled: list[Message],
) -> None:
    headers = {"Idempotency-Key": "k"}
    answer = Client().post("/events/send/", SEND, content_type="application/json", headers=headers)
    assert answer.status_code == 400
    assert "Client(enforce_csrf_checks=True)" in answer.json()["error"]
    assert handled == []
    assert not HandledMessage.objects.exists()
    page = Page()
    for _ in range(2):
        assert page.post("/events/send/", **headers).status_code == 200
    assert len(handled) == 1
