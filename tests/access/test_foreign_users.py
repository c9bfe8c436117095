"""Users of other packages' middleware, and their Authorization headers, over a real Daphne."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.test import RequestFactory
from django.utils.functional import SimpleLazyObject

from sse_app.access.admission import admit
from sse_app.access.authorization import may_listen
from sse_app.access.grants import Grant, user_of_page
from sse_app.access.refusals import Refused

from ..support.servers import Daphne
from ..support.sites import Site

pytest.importorskip("rest_framework_simplejwt")

MADE = (
    "from django.contrib.auth.models import User\n"
    "from rest_framework_simplejwt.tokens import AccessToken\n"
    "result = str(AccessToken.for_user(User.objects.get(username='ann')))"
)
OURS = (
    "from datetime import timedelta\nfrom sse_app.access.tokens import create_token\n"
    "result = create_token('reader', listen=['order.*'], publish=['order.*'], events=['*'], "
    "lifetime=timedelta(days=1))[1]"
)


def jwt_site(make_daphne: Callable[..., Daphne], middleware: str) -> tuple[Site, str]:
    listed = [*django_settings.MIDDLEWARE, f"tests.support.jwt_users.{middleware}"]
    site = Site(make_daphne({"TEST_DJANGO": json.dumps({"MIDDLEWARE": listed})}))
    return site, str(site.run(MADE))


@pytest.mark.parametrize("middleware", ["of_the_database", "of_the_token"])
def test_the_page_of_a_user_by_a_token_is_for_that_user(
    make_daphne: Callable[..., Daphne], middleware: str
) -> None:
    site, token = jwt_site(make_daphne, middleware)
    page = httpx.get(
        f"{site.daphne.url}/test/page/",
        params={"tag": '{% sse_url "order.42" %}'},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert page.status_code == 200, page.text[:300]
    assert "grant=" in page.text
    for name, status in (("anonymous", 403), ("bob", 403), ("ann", 200)):
        expected = 200 if middleware == "of_the_database" and status == 200 else 403
        assert site.listen(name, page.text)[0] == expected, name
    site.close()


def test_a_user_by_a_token_gets_a_ticket_for_a_client_that_has_neither(
    make_daphne: Callable[..., Daphne],
) -> None:
    site, token = jwt_site(make_daphne, "of_the_database")
    own = f"user.{site.keys['ann']}"
    headers = {"Authorization": f"Bearer {token}"}
    stranger = site.visitors["anonymous"]
    stranger.get("/login/")
    answer = stranger.post(
        "/events/ticket/",
        json={"groups": [own]},
        headers=headers | {"X-CSRFToken": stranger.cookies["csrftoken"]},
    )
    assert answer.status_code == 200, answer.text
    assert site.listen("anonymous", answer.json()["url"]) == (200, "sse.open")
    assert site.listen("anonymous", f"/events/?group={own}", headers=headers)[0] == 403
    site.close()


def test_a_foreign_authorization_header_opens_and_closes_nothing(
    make_daphne: Callable[..., Daphne],
) -> None:
    site, token = jwt_site(make_daphne, "of_the_database")
    ours = site.run(OURS)
    site.run("from django.contrib.auth.models import User\nUser.objects.update(is_superuser=True)")
    site.run("from django.contrib.auth.models import User\nUser.objects.update(is_staff=True)")
    own = f"/events/?group=user.{site.keys['ann']}"
    said = {"group": "orders", "event": "n"}
    for foreign in (f"Bearer {token}", "Basic dXNlcjpwYXNz", "Token abc", "Bearer", "Bearer a b"):
        headers = {"Authorization": foreign}
        assert site.listen("anonymous", "/events/?group=orders", headers=headers)[0] == 200
        assert site.listen("anonymous", own, headers=headers)[0] == 403
        assert site.listen("ann", own, headers=headers)[0] == 200
        site.visitors["ann"].headers["Authorization"] = foreign
        assert site.post("ann", "ticket", {"groups": ["orders"]}).status_code == 200
        assert site.post("ann", "send", said).status_code == 404, "there is no such handler"
        assert site.visitors["ann"].get("/events/metrics/").status_code == 200
        del site.visitors["ann"].headers["Authorization"]
        body = {"group": "order.42", "event": "n"}
        answer = httpx.post(f"{site.daphne.url}/events/publish/", json=body, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        both = [("Authorization", foreign), ("Authorization", f"Bearer {ours}")]
        answer = httpx.post(f"{site.daphne.url}/events/publish/", json=body, headers=both)
        assert answer.status_code == 202, "ours is found beside it"
        assert site.listen("anonymous", "/events/?group=order.42", headers=both)[0] == 200
    for key in ("token", "access_token", "authorization", "bearer"):
        url = f"/events/?group=order.42&{key}={ours}"
        assert site.listen("anonymous", url)[0] == 403, "a token in a URL is none"
    site.close()


# --- parts ---


def request_of(user: Any, **cookies: str) -> HttpRequest:
    request = RequestFactory().get("/")
    request.COOKIES.update(cookies)
    request.user = user
    return request


@pytest.mark.django_db
def test_a_lazy_user_is_looked_at_whoever_made_it() -> None:
    ann = User.objects.create(username="ann")
    for user in (ann, SimpleLazyObject(lambda: ann)):
        assert user_of_page(request_of(user)) == ann
        assert Grant.to(user, ["a"]).user == str(ann.pk)
    for stranger in (None, AnonymousUser(), SimpleLazyObject(AnonymousUser)):
        assert user_of_page(request_of(stranger)) is None
        assert Grant.to(stranger, ["a"]).user == ""


@pytest.mark.django_db
def test_a_user_who_can_not_be_told_from_a_stranger_gets_no_grant_for_everybody() -> None:
    class Odd:
        pk = 5

        def is_authenticated(self) -> bool:
            return False

    grant = Grant.to(Odd(), ["a"])
    assert grant.user == "5"
    assert not grant.is_for(AnonymousUser())


def admitted(user: Any, query: str = "group=user.1") -> Any:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "user": user}
    request = ASGIRequest({**scope, "query_string": query.encode()}, None)
    return async_to_sync(admit)(request, may_listen)


@pytest.mark.django_db(transaction=True)
def test_a_user_of_an_asgi_middleware_needs_a_row_and_to_be_active() -> None:
    class Foreign:
        is_authenticated = is_active = True

        def __init__(self, pk: Any) -> None:
            self.pk = pk

    ann = User.objects.create(username="ann")
    own = f"group=user.{ann.pk}"
    for user in (ann, SimpleLazyObject(lambda: ann), Foreign(ann.pk), Foreign(str(ann.pk))):
        access = admitted(user, own)
        assert access.user_key == str(ann.pk)
        async_to_sync(access.refresh)()
        assert access.user == ann
    for user, query in (
        (Foreign(ann.pk + 1), f"group=user.{ann.pk + 1}"),
        (Foreign("x"), "group=user.x"),
        (AnonymousUser(), own),
        (User(username="unsaved"), "group=user.None"),
    ):
        with pytest.raises(Refused):
            admitted(user, query)
    User.objects.update(is_active=False)
    for user in (ann, User.objects.get(pk=ann.pk)):
        with pytest.raises(Refused):
            admitted(user, own)


@pytest.mark.django_db(transaction=True)
def test_a_user_whose_password_is_another_by_now_is_a_stranger() -> None:
    """As where the session was read from a replica that lags, or just before the change."""
    ann = User.objects.create_user("ann", password="old")
    stale = User.objects.get()
    ann.set_password("new")
    ann.save()
    own = f"group=user.{ann.pk}"
    assert admitted(ann, own).user == ann
    with pytest.raises(Refused):
        admitted(stale, own)
