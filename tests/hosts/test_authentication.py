"""Users without a session: by the packages of projects that have an app for phones."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ..support.patience import PATIENCE
from ..support.servers import eventually
from .projects import Host, Visitor

pytestmark = [
    pytest.mark.project,
    pytest.mark.packages("rest_framework", "rest_framework_simplejwt", "knox"),
]

SETTINGS = """
INSTALLED_APPS += ["rest_framework", "rest_framework.authtoken", "knox"]
REST_KNOX = {"AUTH_HEADER_PREFIX": "Knox"}
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.SessionAuthentication",
        "rest_framework_simplejwt.authentication.JWTAuthentication",
        "rest_framework.authentication.TokenAuthentication",
        "knox.auth.TokenAuthentication",
        "rest_framework.authentication.BasicAuthentication",
    ]
}
SSE_APP |= {
    "AUTHENTICATE": [
        "mysite.devices.of_device",
        "mysite.devices.of_robot",
        *REST_FRAMEWORK["DEFAULT_AUTHENTICATION_CLASSES"],
    ],
    "PUBLIC_GROUPS": ["news"],
    "MAY_LISTEN": "mysite.devices.may_listen",
    "REVALIDATE_INTERVAL": 0.3,
}
"""
DEVICES = """
from django.contrib.auth.models import AnonymousUser, User

from tests.hosts.shop.models import Order

#: The name of the user of each device.
OWNERS = {"d1": "ann"}


def of_device(request):
    device = request.headers.get("X-Device")
    if device == "raises":
        raise RuntimeError("on purpose")
    if device in ODD:
        return ODD[device]()
    return User.objects.get(username=OWNERS[device]) if device in OWNERS else None


async def of_robot(request):
    if request.headers.get("X-Robot") == "r1":
        return await User.objects.aget(username="ann")


class Machine(Order):
    is_authenticated = is_active = True

    class Meta:
        proxy = True
        app_label = "shop"


def inactive():
    user = User.objects.get_or_create(username="gone")[0]
    user.is_active = False
    user.save()
    return user


ODD = {
    "true": lambda: True,
    "text": lambda: "ann",
    "pair": lambda: (User.objects.get(username="ann"), None),
    "anonymous": AnonymousUser,
    "unsaved": lambda: User(username="new"),
    "deleted": lambda: User(pk=10**6, username="was"),
    "another model": lambda: Machine(pk=User.objects.get(username="ann").pk),
    "inactive": inactive,
}


def may_listen(user, group, request):
    return group == f"of.{user.get_username()}"
"""
URLS = """
from contextlib import redirect_stdout
from io import StringIO

from django.contrib.auth import logout
from django.http import HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from sse_app import on
from tests.hosts.shop.urls import urlpatterns as shop


@on("whoami")
def whoami(message):
    return message.user.get_username()


@csrf_exempt
def run(request):
    names = {}
    exec(request.POST["code"], names)
    return JsonResponse({"result": names.get("result")})


def leave(request):
    logout(request)
    return HttpResponse()


def csrf(request):
    return HttpResponse(get_token(request))


urlpatterns = [*shop, path("run/", run), path("leave/", leave), path("csrf/", csrf)]
"""
NAMES = """
from datetime import timedelta
from django.contrib.auth.models import User
from sse_app import *
from sse_app.access.models import AccessToken
from sse_app.access.tokens import create_token
from rest_framework.authtoken.models import Token
from knox.models import AuthToken
from rest_framework_simplejwt.tokens import AccessToken as JWT
ann = User.objects.get_or_create(username="ann")[0]
bob = User.objects.get_or_create(username="bob")[0]
"""

Credentials = dict[str, str]


class Site:
    """The project, and what its views would do."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.events = f"{host.url}/events/"
        self.client = httpx.Client(timeout=PATIENCE)
        self.own = f"user.{self.run('result = ann.pk')}"

    def run(self, code: str) -> Any:
        answer = self.client.post(f"{self.host.url}/run/", data={"code": NAMES + code})
        assert answer.status_code == 200, answer.text[:500]
        return answer.json()["result"]

    def fresh(self) -> None:
        """Make the users as they were in the beginning."""
        self.run("[t.objects.all().delete() for t in (Token, AuthToken, AccessToken)]")
        self.run("ann.set_password('secret'); ann.is_active = True; ann.save()")

    def post_by_page(
        self, visitor: Visitor, path: str, body: Any, credentials: Credentials
    ) -> httpx.Response:
        """Post with the cookies of a visitor, and the token of a page."""
        headers = {"X-CSRFToken": visitor.get("/csrf/").text, "Sec-Fetch-Site": "same-origin"}
        return visitor.post(f"{self.events}{path}/", json=body, headers={**headers, **credentials})

    def post(self, path: str, body: Any, credentials: Credentials) -> httpx.Response:
        return httpx.post(f"{self.events}{path}/", json=body, headers=credentials, timeout=PATIENCE)


@pytest.fixture(scope="module")
def host(make_host: Callable[..., Host]) -> Host:
    files = {"mysite/devices.py": DEVICES, "mysite/urls.py": URLS}
    return make_host(lines=SETTINGS, files=files, migrate=True)


@pytest.fixture
def site(host: Host) -> Site:
    site = Site(host)
    site.fresh()
    return site


@pytest.fixture
def stranger(host: Host) -> Iterator[Visitor]:
    with Visitor(host) as visitor:
        yield visitor


def bearer(text: str) -> Credentials:
    return {"Authorization": f"Bearer {text}"}


def basic(password: str) -> Credentials:
    return {"Authorization": "Basic " + base64.b64encode(f"ann:{password}".encode()).decode()}


OURS = "result = issue_token(ann, name='phone', lifetime=timedelta(days=90))"
#: How ann gets the credentials, what takes them away, and credentials that nobody has.
KINDS: dict[str, tuple[Callable[[Site], Credentials], str, Credentials]] = {
    "simplejwt": (
        lambda site: bearer(site.run("result = str(JWT.for_user(ann))")),
        "User.objects.filter(pk=ann.pk).update(is_active=False)",
        bearer("a.b.c"),
    ),
    "a token of DRF": (
        lambda site: {
            "Authorization": f"Token {site.run('result = Token.objects.create(user=ann).key')}"
        },
        "Token.objects.all().delete()",
        {"Authorization": "Token x"},
    ),
    "knox": (
        lambda site: {
            "Authorization": f"Knox {site.run('result = AuthToken.objects.create(ann)[1]')}"
        },
        "AuthToken.objects.all().delete()",
        {"Authorization": "Knox x"},
    ),
    "Basic": (
        lambda site: basic("secret"),
        "ann.set_password('other'); ann.save()",
        basic("wrong"),
    ),
    "a function": (
        lambda site: {"X-Device": "d1"},
        "from mysite import devices; devices.OWNERS.clear()",
        {"X-Device": "true"},
    ),
    "an async function": (
        lambda site: {"X-Robot": "r1"},
        "disconnect(user=ann); User.objects.filter(pk=ann.pk).update(is_active=False)",
        {"X-Device": "true"},
    ),
    "a token of the app": (
        lambda site: bearer(site.run(OURS)),
        "revoke_tokens(ann, name='phone')",
        bearer("sse_1_" + 43 * "x"),
    ),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, site: Site) -> Iterator[str]:
    yield request.param
    site.run("from mysite import devices; devices.OWNERS['d1'] = 'ann'")


@pytest.fixture
def credentials(site: Site, kind: str) -> Credentials:
    return KINDS[kind][0](site)


def opened(visitor: Visitor, site: Site, group: str, credentials: Credentials) -> int:
    with visitor.listen(f"{site.events}?group={group}", **credentials) as stream:
        if stream.status == 200:
            assert stream.next().json().get("groups") == [group]
        return stream.status


def test_the_user_of_the_credentials_has_the_streams_of_that_user_and_no_others(
    site: Site, stranger: Visitor, credentials: Credentials
) -> None:
    for group, status in ((site.own, 200), ("of.ann", 200), ("of.bob", 403), ("user.1000", 403)):
        assert opened(stranger, site, group, credentials) == status, group
        assert opened(stranger, site, group, {}) == 403, group
    assert not stranger.cookies


def test_a_message_a_ticket_and_a_renewal_need_no_csrf_token(
    site: Site, stranger: Visitor, credentials: Credentials
) -> None:
    body = {"group": site.own, "event": "whoami"}
    answer = site.post("send", body, credentials)
    assert (answer.status_code, answer.json()) == (200, "ann")
    assert site.post("send", body, {}).status_code == 403
    given = site.post("ticket", {"groups": ["of.ann"]}, credentials)
    assert given.status_code == 200, given.text
    with stranger.listen(site.host.url + given.json()["url"]) as stream:
        assert stream.next().json()["groups"] == ["of.ann"]
    grant = site.run(
        "from sse_app.access.grants import Grant; result = Grant.to(ann, ['of.ann']).sign()"
    )
    assert site.post("renew", {"grant": grant}, credentials).status_code == 200
    assert site.post("renew", {"grant": grant}, {}).status_code == 403


def test_a_stream_ends_when_the_credentials_end(
    site: Site, stranger: Visitor, kind: str, credentials: Credentials
) -> None:
    with stranger.listen(f"{site.events}?group={site.own}", **credentials) as stream:
        assert stream.next().name == "sse.open"
        site.run(KINDS[kind][1])
        assert stream.until("sse.close").json()["reason"] == "auth"
    assert opened(stranger, site, site.own, credentials) in (401, 403)


def test_a_stream_whose_credentials_are_still_valid_stays_open(
    site: Site, stranger: Visitor, credentials: Credentials
) -> None:
    asked = "from sse_app.access.revalidation import Revalidator\n"
    with stranger.listen(f"{site.events}?group={site.own}", **credentials) as stream:
        assert stream.next().name == "sse.open"
        site.run(
            asked + "count = Revalidator.round\nRevalidator.rounds = 0\n"
            "def counting(self, due):\n    Revalidator.rounds += bool(due)\n"
            "    return count(self, due)\nRevalidator.round = counting"
        )
        eventually(lambda: site.run(asked + "result = Revalidator.rounds") >= 3)
        site.run("publish(f'user.{ann.pk}', 'still')")
        assert stream.until("still").name == "still"


def test_disconnect_ends_the_streams_of_such_a_user(
    site: Site, stranger: Visitor, credentials: Credentials
) -> None:
    with stranger.listen(f"{site.events}?group={site.own}", **credentials) as stream:
        assert stream.next().name == "sse.open"
        site.run("disconnect(user=ann)")
        assert stream.until("sse.close").json()["reason"] == "auth"


def test_wrong_credentials_are_refused_although_the_session_would_be_let_in(
    site: Site, stranger: Visitor, kind: str
) -> None:
    stranger.enter("ann")
    wrong = KINDS[kind][2]
    assert opened(stranger, site, site.own, {}) == 200
    for group in (site.own, "news"):
        with stranger.listen(f"{site.events}?group={group}", **wrong) as stream:
            assert stream.status in (401, 403)
            assert (stream.status == 401) == ("WWW-Authenticate" in stream.headers)
    body = {"group": site.own, "event": "whoami"}
    assert site.post_by_page(stranger, "send", body, wrong).status_code in (401, 403)
    assert site.post_by_page(stranger, "send", body, {}).status_code == 200


def test_the_credentials_count_and_not_the_session_beside_them(
    site: Site, stranger: Visitor, credentials: Credentials
) -> None:
    stranger.enter("bob")
    assert opened(stranger, site, "of.bob", {}) == 200
    assert opened(stranger, site, "of.bob", credentials) == 403
    with stranger.listen(f"{site.events}?group={site.own}", **credentials) as stream:
        assert stream.next().name == "sse.open"
        body = {"group": site.own, "event": "whoami"}
        assert site.post_by_page(stranger, "send", body, credentials).json() == "ann"
        body = {"groups": [site.own]}
        given = site.post_by_page(stranger, "ticket", body, credentials).json()
        with stranger.listen(site.host.url + given["url"]) as other:
            assert other.next().name == "sse.open"
            # Neither stream is one of bob's session.
            stranger.get("/leave/")
            site.run("publish(f'user.{ann.pk}', 'still')")
            assert stream.until("still")
            assert other.until("still")


# --- functions that do not keep to the rules ---


@pytest.mark.parametrize(
    "device",
    ["true", "text", "pair", "anonymous", "unsaved", "deleted", "another model", "inactive"],
)
def test_what_is_no_user_is_refused(site: Site, stranger: Visitor, device: str) -> None:
    stranger.enter("ann")
    for group in (site.own, "news"):
        assert opened(stranger, site, group, {"X-Device": device}) == 403
    body = {"group": site.own, "event": "whoami"}
    assert site.post_by_page(stranger, "send", body, {"X-Device": device}).status_code == 403


def test_a_function_that_fails_lets_nobody_in_for_now(site: Site, stranger: Visitor) -> None:
    stranger.enter("ann")
    with stranger.listen(f"{site.events}?group={site.own}", **{"X-Device": "raises"}) as stream:
        busy = stream.next()
        assert (busy.name, busy.json()) == ("sse.busy", {"reason": "authenticate"})
    body = {"group": site.own, "event": "whoami"}
    answer = site.post_by_page(stranger, "send", body, {"X-Device": "raises"})
    assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)


def test_cookies_need_the_csrf_token_unless_a_header_signs_in(
    site: Site, stranger: Visitor
) -> None:
    stranger.enter("bob")
    body = json.dumps({"group": site.own, "event": "whoami"})
    typed = {"Content-Type": "application/json"}
    for headers, status in (
        ({}, 403),
        ({"X-Device": "d1"}, 403),
        (bearer(site.run("result = str(JWT.for_user(ann))")), 200),
    ):
        answer = stranger.post(f"{site.events}send/", content=body, headers={**typed, **headers})
        assert answer.status_code == status, headers
    other = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    assert site.post("send", json.loads(body), {"X-Device": "d1", **other}).status_code == 403


def test_users_who_come_together_are_not_mixed_up(site: Site) -> None:
    """Sessions are read together: no visitor gets the user of another one's credentials."""
    token = site.run("result = str(JWT.for_user(ann))")
    with Visitor(site.host) as bob, Visitor(site.host) as nobody:
        bob.enter("bob")
        listening = [
            visitor.listen(f"{site.events}?group={group}", **credentials)
            for _ in range(5)
            for visitor, credentials in ((nobody, bearer(token)), (bob, {}), (nobody, {}))
            for group in ("of.ann", "of.bob")
        ]
        statuses = []
        for one in listening:
            with one as stream:
                statuses.append(stream.status)
        assert statuses == 5 * [200, 403, 403, 200, 403, 403]


def test_a_jwt_that_expires_ends_its_stream(site: Site, stranger: Visitor) -> None:
    made = "token = JWT.for_user(ann); token.set_exp(lifetime=timedelta(seconds={})); "
    for seconds in (2, 8, 32):  # On a slow machine the first one expires before it is sent.
        token = site.run(made.format(seconds) + "result = str(token)")
        with stranger.listen(f"{site.events}?group={site.own}", **bearer(token)) as stream:
            if stream.status == 200:
                assert stream.until("sse.close").json()["reason"] == "auth"
                return
    pytest.fail("No stream was opened.")


# --- tickets and tokens that the project gives ---


def test_a_view_gives_a_ticket_for_a_user(site: Site, stranger: Visitor) -> None:
    url = site.run("result = issue_ticket(ann, ['room.1', 'room.2'])")
    with stranger.listen(site.host.url + url) as stream:
        assert stream.next().json()["groups"] == ["room.1", "room.2"]
        with stranger.listen(site.host.url + url) as again:
            assert again.next().json() == {"reason": "expired"}
        site.run("ann.set_password('other'); ann.save()")
        assert stream.until("sse.close").json()["reason"] == "auth"


@pytest.mark.parametrize(
    "arguments",
    [
        "ann, []",
        "ann, 'room'",
        "ann, ['no room']",
        "ann, [str(n) for n in range(100)]",
        "User(username='new'), ['room']",
        "User(username='off', pk=ann.pk, is_active=False), ['room']",
        "AccessToken(pk=ann.pk), ['room']",
    ],
)
def test_a_ticket_that_nobody_could_use_is_not_given(site: Site, arguments: str) -> None:
    tried = (
        f"try:\n    issue_ticket({arguments})\nexcept ValueError as error:\n    result = str(error)"
    )
    assert site.run(tried)


def test_a_token_of_a_user_opens_nothing_but_streams_and_messages(
    site: Site, stranger: Visitor
) -> None:
    token = bearer(site.run(OURS))
    body = {"group": site.own, "event": "whoami"}
    assert site.post("publish", body, token).status_code == 403
    assert stranger.get(f"{site.events}metrics/", headers=token).status_code == 403
    assert stranger.get("/admin/", headers=token).status_code == 302


@pytest.mark.parametrize(
    "end",
    [
        "ann.set_password('other'); ann.save()",
        "User.objects.filter(pk=ann.pk).update(password='x')",
        "ann.is_active = False; ann.save()",
        "AccessToken.objects.all().delete()",
        "AccessToken.objects.update(expires_at='2020-01-01T00:00Z')",
    ],
)
def test_a_token_of_a_user_ends_with_the_rights_of_the_user(
    site: Site, stranger: Visitor, end: str
) -> None:
    token = bearer(site.run(OURS))
    other = bearer(site.run("result = issue_token(bob, name='phone', lifetime=timedelta(1))"))
    with (
        stranger.listen(f"{site.events}?group={site.own}", **token) as stream,
        stranger.listen(f"{site.events}?group=news", **other) as of_bob,
    ):
        assert stream.next().name == of_bob.next().name == "sse.open"
        site.run(end)
        assert stream.until("sse.close").json()["reason"] == "auth"
        if "objects" not in end:
            site.run("publish('news', 'still')")
            assert of_bob.until("still")
    assert opened(stranger, site, site.own, token) == 403
    assert site.post("send", {"group": site.own, "event": "whoami"}, token).status_code == 401


def test_the_command_makes_and_lists_the_token_of_a_user(site: Site, stranger: Visitor) -> None:
    command = (
        "from io import StringIO\nfrom django.core.management import CommandError, call_command\n"
        "text = StringIO()\n"
        "try:\n    call_command('sse_token', *{}, stdout=text, stderr=StringIO())\n"
        "except CommandError as error:\n    text.write(str(error))\nresult = text.getvalue()"
    ).format
    made = site.run(command(["create", "tablet", "--user", "ann", "--days", "1"]))
    assert opened(stranger, site, site.own, bearer(made.strip())) == 200
    assert "signs in the user" in site.run(command(["list"]))
    assert "--user" in site.run(command(["create", "x", "--user", "ann", "--listen", "*"]))
    assert "nobody" in site.run(command(["create", "x", "--user", "nobody"]))
