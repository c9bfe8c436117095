"""Who may listen: users, groups and ways in, every cell of it, over a real Daphne."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.sessions.backends import cache
from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.template import Context, Template
from django.test.utils import CaptureQueriesContext

from sse_app import disconnect
from sse_app.access import tickets
from sse_app.access.admission import Expired, admit
from sse_app.access.grants import Grant, revoked_grants
from sse_app.access.sessions import live_sessions, session_digest
from sse_app.conf import stored_time, written
from sse_app.models import Revocation as RevocationRow
from sse_app.models import Ticket

from ..selection import first_then_slow
from ..support.parser import Parser
from ..support.servers import Daphne, eventually
from ..support.sites import USERS, Site

POLICY = "tests.policies.by_permission"
CODE = """
from django.contrib.auth.models import Group
from django.test import RequestFactory
from django.contrib.auth.models import User
ann, bob = (User.objects.get(username=name) for name in ("ann", "bob"))
Group.objects.get_or_create(name="red")[0].user_set.add(ann)
User.objects.filter(username="staff").update(is_staff=True)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("access")
    environment = {"DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}", "REDIS_URL": ""}
    limits = {"STREAMS_PER_SESSION": None, "STREAMS_PER_USER": None}
    daphne = Daphne(folder, environment, MAY_LISTEN=POLICY, **limits)
    daphne.manage("migrate", "--verbosity", "0")
    site = Site(daphne.start())
    site.run(CODE)
    yield site
    site.close()
    daphne.close()


def may(site: Site, name: str, group: str) -> bool:
    """The expected right, told apart from how the app decides it."""
    rights = {
        "anonymous": {"clock", "chat.a"},
        "ann": {"clock", "chat.a", f"user.{site.keys['ann']}", "team.red"},
        "bob": {"clock", "chat.a", f"user.{site.keys['bob']}"},
        "staff": {"clock", "chat.a", f"user.{site.keys['staff']}", "staff"},
    }
    return group in rights[name]


def groups_of(site: Site) -> list[str]:
    own = [f"user.{key}" for key in site.keys.values()]
    return ["clock", "chat.a", *own, "user.0", "team.red", "team.blue", "staff", "order.42"]


def test_by_name_each_user_hears_what_is_public_theirs_or_permitted(site: Site) -> None:
    for name in USERS:
        for group in groups_of(site):
            expected = (200, "sse.open") if may(site, name, group) else (403, "")
            assert site.listen(name, f"/events/?group={group}") == expected, (name, group)


def test_one_forbidden_group_forbids_the_stream(site: Site) -> None:
    for name in USERS:
        for group in groups_of(site):
            expected = 200 if may(site, name, group) else 403
            assert site.listen(name, f"/events/?group=clock&group={group}")[0] == expected


def test_a_signed_page_is_for_the_one_it_was_rendered_for(site: Site) -> None:
    for owner in USERS:
        for group in ("order.42", "team.red", "staff", f"user.{site.keys['ann']}"):
            url = site.url(owner, group)
            assert "grant=" in url
            for name in USERS:
                # What the server rendered for a stranger, whoever has the URL may hear.
                expected = 200 if owner in ("anonymous", name) else 403
                assert site.listen(name, url)[0] == expected, (owner, group, name)


def test_a_ticket_opens_one_stream_for_whoever_has_it(site: Site) -> None:
    for owner in USERS:
        for group in ("clock", "order.42", "team.red", "staff"):
            answer = site.post(owner, "ticket", {"groups": [group]})
            permitted = may(site, owner, group)
            assert answer.status_code == (200 if permitted else 403), (owner, group)
            if permitted:
                url = answer.json()["url"]
                assert site.listen("anonymous", url) == (200, "sse.open")
                assert site.listen("anonymous", url) == (200, "expired")
                assert site.listen(owner, url) == (200, "expired")


ENDS = {
    "disconnect": "from sse_app import disconnect\ndisconnect(user=user)",
    "another password": "user.set_password('x')\nuser.save()",
    "another right": "user.groups.clear()",
    "deactivated": "user.is_active = False\nuser.save()",
    "session gone": (
        "from django.contrib.sessions.models import Session\nSession.objects.all().delete()"
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_ticket_is_worth_no_more_than_the_right_it_was_given_for(
    make_daphne: Callable[..., Daphne], how: str
) -> None:
    site = Site(make_daphne(MAY_LISTEN=POLICY))
    site.run(CODE)
    text = httpx.URL(f"http://x{site.url('ann', 'order.42')}").params["grant"]
    tickets = [
        site.post("ann", "ticket", body).json()["url"]
        for body in ({"grant": text}, {"groups": ["team.red"]})
    ]
    user = f"user = User.objects.get(pk={site.keys['ann']})"
    site.run(f"from django.contrib.auth.models import User\n{user}\n{ENDS[how]}")
    for url, policy_decides in zip(tickets, (False, True), strict=True):
        if policy_decides and how == "disconnect":
            continue  # It takes back what was given, and not what the policy permits.
        status, first = site.listen("anonymous", url)
        assert (status, first) in ((200, "expired"), (403, "")), url
    site.close()


@pytest.mark.django_db(transaction=True)
def test_of_two_who_use_a_ticket_at_once_one_gets_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = tickets.issue(AnonymousUser(), ["clock"])
    asked = iter([False, True])
    found: list[Ticket | None] = []

    def meanwhile(model: type[Ticket]) -> Any:
        if next(asked):  # The first one has read the row, and is about to use it up.
            monkeypatch.setattr(tickets, "written", written)
            found.append(tickets.redeem(text))
        return written(model)

    monkeypatch.setattr(tickets, "written", meanwhile)
    assert tickets.redeem(text) is None
    assert [ticket and ticket.groups for ticket in found] == [["clock"]]


@pytest.mark.django_db
def test_sessions_that_are_not_in_the_database_are_looked_for_where_they_are(settings: Any) -> None:
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    assert live_sessions({"nobody", "can"}) == {"nobody", "can"}, "take them back"
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    session = cache.SessionStore()
    session.create()
    key = str(session.session_key)
    assert live_sessions({key, "unknown"}) == {key}
    session.delete()
    assert live_sessions({key}) == set()


@pytest.mark.parametrize("store", first_then_slow(["sqlite", "postgresql"]))
def test_a_ticket_of_a_session_in_a_cookie_keeps_no_session(
    make_daphne: Callable[..., Daphne], request: pytest.FixtureRequest, store: str
) -> None:
    """The key of such a session is all of it, with its signature, and has no bounded length."""
    django = {"SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies"}
    environ = {"TEST_DJANGO": json.dumps(django)}
    if store == "postgresql":
        environ["TEST_POSTGRES_NAME"] = request.getfixturevalue("database")
    site = Site(make_daphne(environ, REVALIDATE_INTERVAL=600))
    site.run("request.session['padding'] = 'x' * 400")
    cookie = site.visitors["ann"].cookies["sessionid"]
    own = f"user.{site.keys['ann']}"
    answer = site.post("ann", "ticket", {"groups": [own]})
    assert answer.status_code == 200, answer.text
    rows = site.run("from sse_app.models import Ticket\nresult = list(Ticket.objects.values())")
    kept = json.dumps(rows)
    assert cookie not in kept
    assert session_digest(cookie) not in kept
    with site.visitors["anonymous"].stream("GET", answer.json()["url"]) as stream:
        parser = Parser()
        chunks = stream.iter_raw()
        parser.feed(next(chunks))
        assert parser.events[0].name == "sse.open"
        streams = (
            "from sse_app.access.readers import readers\n"
            "result = [str((vars(each.access), each.session_digest, vars(each.stream)))\n"
            "          for each in readers()]"
        )
        assert cookie not in json.dumps(site.run(streams))
        site.visitors["ann"].get("/test/logout/")
        for chunk in chunks:
            parser.feed(chunk)
        assert parser.events[-1].json() == {"reason": "auth"}, "it ends with the session"
    site.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("key", ["", "k" * 32, "k" * 40, "\u00e9" * 2000])
def test_a_tickets_row_opens_no_session_and_its_text_tells_which_it_is(key: str) -> None:
    text = tickets.issue(AnonymousUser(), ["clock"], session_key=key)
    again = tickets.issue(AnonymousUser(), ["clock"], session_key=key)
    kept = set(Ticket.objects.values_list("session_key", flat=True))
    assert len(kept) == (2 if key else 1), "no two rows look alike"
    assert not key or not any(key in row for row in kept)
    for given in (text, again):
        found = tickets.redeem(given)
        assert found is not None
        assert found.session_key == key


@pytest.mark.django_db(transaction=True)
def test_a_ticket_that_an_older_release_wrote_is_over() -> None:
    text = tickets.issue(AnonymousUser(), ["clock"])
    Ticket.objects.update(session_key="9xupa3bz873r8yu09fl7d0xiyfsaq20b")
    assert tickets.redeem(text) is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("revoked", [None, 0, 19])
def test_whether_twenty_grants_were_taken_back_is_one_query(revoked: int | None) -> None:
    texts = [Grant.to(None, [f"order.{number}"]).sign() for number in range(20)]
    if revoked is not None:
        disconnect(group=f"order.{revoked}")
    query = urlencode([("grant", text) for text in texts]).encode()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": query}

    async def nobody(user: Any, groups: Any, request: Any) -> bool:
        return False

    request = ASGIRequest(scope, None)
    with CaptureQueriesContext(connection) as queries:
        if revoked is None:
            access = async_to_sync(admit)(request, nobody)
            assert len(access.granted) == 20
        else:
            with pytest.raises(Expired):
                async_to_sync(admit)(request, nobody)
    assert len(queries) == 1, [query["sql"] for query in queries]


@pytest.mark.django_db
def test_each_of_several_grants_is_taken_back_by_what_concerns_it() -> None:
    ann, bob = (User.objects.create(username=name) for name in ("ann", "bob"))
    made = [Grant.to(user, [group]) for user in (None, ann, bob) for group in ("a", "b")]

    def revoked(**what: Any) -> list[tuple[str, str]]:
        RevocationRow.objects.all().delete()
        disconnect(**what)
        return [(grant.user, grant.groups[0]) for grant in revoked_grants(made)]

    assert revoked(group="a") == [("", "a"), (str(ann.pk), "a"), (str(bob.pk), "a")]
    assert revoked(user=ann) == [(str(ann.pk), "a"), (str(ann.pk), "b")]
    assert revoked(user=bob, group="b") == [(str(bob.pk), "b")]
    RevocationRow.objects.update(at=stored_time(0))
    assert revoked_grants(made) == []


def test_an_inactive_user_whom_a_backend_signs_in_is_shown_nothing(
    make_daphne: Callable[..., Daphne],
) -> None:
    backends = ["django.contrib.auth.backends.AllowAllUsersModelBackend"]
    django = {"AUTHENTICATION_BACKENDS": backends}
    environ = {"TEST_DJANGO": json.dumps(django)}
    site = Site(
        make_daphne(environ, MAY_LISTEN="tests.policies.signed_in", REVALIDATE_INTERVAL=600)
    )
    ann = site.keys["ann"]
    site.run(
        "from django.contrib.auth import login\nfrom django.contrib.auth.models import User\n"
        "User.objects.filter(username='ann').update(is_active=False)"
    )
    log_in = (
        "from django.contrib.auth import login\nfrom django.contrib.auth.models import User\n"
        f"login(request, User.objects.get(pk={ann}), {backends[0]!r})"
    )
    site.visitors["ann"].post("/test/run/", data={"code": log_in})
    assert site.visitors["ann"].get("/test/whoami/").json()["pk"] == ann, "Django signs her in"
    for url in (f"/events/?group=user.{ann}", "/events/?group=order.42", site.url("ann", "x")):
        assert site.listen("ann", url)[0] == 403, url
    assert site.post("ann", "ticket", {"groups": ["order.42"]}).status_code == 403
    said = {"group": "orders", "event": "chat.message", "data": "hi"}
    assert site.post("ann", "send", said).status_code == 403
    assert site.listen("ann", "/events/?group=orders") == (200, "sse.open"), "as any stranger"
    site.close()


def test_a_page_without_a_request_can_sign_nothing() -> None:
    with pytest.raises(ValueError, match=r"order\.42 .* the context needs `request`"):
        Template('{% load sse %}{% sse_url "order.42" %}').render(Context())


def test_a_ticket_for_a_signed_page(site: Site) -> None:
    grant = re.search(r"grant=([^&]+)", site.url("ann", "order.42"))
    assert grant is not None
    text = httpx.URL(f"http://x/?{grant[0]}").params["grant"]
    body = {"grant": text, "groups": ["clock", "team.red"]}
    url = site.post("ann", "ticket", body).json()["url"]
    assert site.listen("anonymous", url) == (200, "sse.open")
    assert site.post("bob", "ticket", {"grant": text}).status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"groups": []}, 400),
        ({"groups": "clock"}, 400),
        ({"groups": ["a b"]}, 400),
        ({"groups": [5]}, 400),
        ({"groups": ["sse.control"]}, 400),
        ({"groups": [f"clock{n}" for n in range(21)]}, 400),
        ({"grant": "forged"}, 403),
        ({"grant": None}, 403),
        ([], 400),
    ],
)
def test_a_ticket_asked_for_badly(site: Site, body: Any, status: int) -> None:
    assert site.post("ann", "ticket", body).status_code == status


def test_tickets_and_renewals_need_the_csrf_token(site: Site) -> None:
    for path in ("ticket", "renew"):
        answer = site.visitors["ann"].post(f"/events/{path}/", json={"groups": ["clock"]})
        assert answer.status_code == 403


def test_a_program_hears_what_its_token_names(site: Site) -> None:
    text = site.run(
        "from datetime import timedelta\n"
        "from sse_app.access.tokens import create_token\n"
        "result = create_token('reader', listen=['order.*', 'clock'], "
        "lifetime=timedelta(days=1))[1]"
    )
    headers = {"Authorization": f"Bearer {text}"}
    for name in ("anonymous", "ann"):
        for group, status in (("order.42", 200), ("clock", 200), ("chat.a", 403), ("staff", 403)):
            url = f"/events/?group={group}"
            assert site.listen(name, url, headers=headers)[0] == status
    for wrong in (text[:-1], f"{text}x", "sse_1_x", "sse_" + "x" * 5000):
        headers = {"Authorization": f"Bearer {wrong}"}
        assert site.listen("staff", "/events/?group=clock", headers=headers)[0] == 403


@pytest.mark.parametrize("change", ["x", "", "aGVsbG8", "=", "\u0663"])
def test_a_grant_that_was_changed_is_no_grant(site: Site, change: str) -> None:
    url = site.url("anonymous", "order.42")
    assert site.listen("anonymous", url)[0] == 200
    start, _, rest = url.partition("grant=")
    for forged in (f"{start}grant={change}", f"{url}{change or 'x'}", f"{start}grant={rest[1:]}"):
        assert site.listen("anonymous", forged)[0] == 403, forged


def test_public_groups_stay_readable_in_the_url(site: Site) -> None:
    assert site.url("ann", "clock", "chat.a") == "/events/?group=clock&group=chat.a"


def test_a_page_for_strangers_makes_no_session_and_can_be_cached(site: Site) -> None:
    with httpx.Client(base_url=site.daphne.url) as stranger:
        page = stranger.get("/test/page/", params={"tag": '{% sse_url "order.42" %}'})
        assert "grant=" in page.text
        assert "set-cookie" not in page.headers
        assert "cookie" not in page.headers.get("vary", "").lower()


def test_the_control_group_is_nobodys(site: Site) -> None:
    for name in USERS:
        assert site.listen(name, "/events/?group=sse.control")[0] == 400
    page = site.visitors["ann"].get("/test/page/", params={"tag": '{% sse_url "sse.control" %}'})
    assert page.status_code == 500


# --- a right that ends by itself ---


@pytest.fixture
def short(make_daphne: Callable[..., Daphne]) -> Iterator[Site]:
    site = Site(make_daphne(GRANT_AGE=1.5, MAY_LISTEN=POLICY, HEARTBEAT=0.2))
    site.run(CODE)
    yield site
    site.close()


def last_event(site: Site, name: str, url: str) -> tuple[str, int]:
    """Listen to the end; return the reason of the farewell and its retry."""
    with site.visitors[name].stream("GET", url) as answer:
        assert answer.status_code == 200
        parser = Parser()
        for chunk in answer.iter_raw():
            parser.feed(chunk)
    assert parser.events[-1].name == "sse.close"
    return parser.events[-1].json()["reason"], parser.retry or 0


def test_a_grant_expires_is_told_so_and_is_renewed_if_the_policy_permits(short: Site) -> None:
    url = short.url("ann", "team.red", "order.42")
    red = short.url("ann", "team.red")
    assert last_event(short, "ann", url) == ("expired", 3_600_000)
    assert last_event(short, "ann", url) == ("expired", 3_600_000)
    assert short.listen("bob", url)[0] == 403, "expired or not, it is not bob's"
    text = httpx.URL(f"http://x{red}").params["grant"]
    renewed = short.post("ann", "renew", {"grant": text})
    assert renewed.status_code == 200
    assert short.listen("ann", renewed.json()["url"]) == (200, "sse.open")
    assert short.post("bob", "renew", {"grant": text}).status_code == 403
    both = httpx.URL(f"http://x{url}").params["grant"]
    # The policy knows nothing of order.42: only a page can grant it again.
    assert short.post("ann", "renew", {"grant": both}).status_code == 403


# --- secrets and logs ---


def test_tickets_and_grants_stay_out_of_the_access_log(
    make_daphne: Callable[..., Daphne], tmp_path: Any
) -> None:
    log = tmp_path / "access.log"
    # Daphne logs what it ends itself.
    daphne = make_daphne(access_log=log, STREAM_LIFE=0.3, PUBLIC_STREAM_LIFE=0.3, HEARTBEAT=0.2)
    site = Site(daphne)
    ticket = site.post("ann", "ticket", {"groups": ["clock"]}).json()["url"]
    grant = site.url("ann", "order.42")
    for url in (f"{ticket}&event=a", f"{grant}&last_event_id=b", "/events/?group=clock"):
        assert last_event(site, "ann", url)[0] == "age"
    text = eventually(
        lambda: log.read_text() if log.read_text().count("GET /events/?") == 3 else ""
    )
    assert "ticket=hidden&event=a" in text
    assert "grant=hidden&last_event_id=b" in text
    assert "GET /events/?group=clock" in text
    for url in (ticket, grant):
        assert url.split("=", 1)[1] not in text
    site.close()


@pytest.mark.parametrize("policy", ["tests.policies.by_permission_async", "tests.policies.raising"])
def test_an_async_policy_and_one_that_fails(
    make_daphne: Callable[..., Daphne], policy: str
) -> None:
    site = Site(make_daphne(MAY_LISTEN=policy))
    site.run(CODE)
    fails = policy.endswith("raising")
    assert site.listen("ann", "/events/?group=team.red") == (
        (200, "policy") if fails else (200, "sse.open")
    )
    assert site.listen("bob", "/events/?group=team.red") == (
        (200, "policy") if fails else (403, "")
    )
    assert site.listen("bob", "/events/?group=clock") == (200, "sse.open")
    site.close()


@pytest.mark.django_db
def test_grants_hold_also_where_times_have_no_zone(settings: Any) -> None:
    settings.USE_TZ = False
    disconnect(group="b")
    taken_back = Grant.to(None, ["b"])
    disconnect(group="b")
    assert revoked_grants([Grant.to(None, ["a"]), taken_back]) == [taken_back]
