"""The dashboard's pages in the admin: who may what, and what it does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client, override_settings
from django.utils import timezone

from sse_app import publish
from sse_app.access.revocations import Revocation
from sse_app.eventlog import event_log
from sse_app.models import Revocation as RevocationRow
from sse_app.models import ServerProcess
from sse_app.operations.dashboard import poller
from sse_app.operations.dashboard.admin import END, READ, SEND
from sse_app.protocol.cursors import START
from sse_app.protocol.events import Event
from sse_app.protocol.groups import CONTROL_GROUP

from ..support.staff import staff

pytestmark = pytest.mark.django_db(transaction=True)

VIEW = "sse_app.view_serverprocess"
LIST = "/admin/sse_app/serverprocess/"
FEED = f"{LIST}feed/"
GROUP = f"{LIST}group/orders/"
REPLAY = f"{GROUP}replay/1/"
EXPLAIN = f"{LIST}explain/"
STREAM = "0011aabb"


@pytest.fixture(autouse=True)
def _one_process() -> None:
    row = {
        "id": STREAM,
        "user": "ann",
        "user_key": "77",
        "address": "192.0.2.1",
        "groups": ["orders"],
        "events": [],
        "opened_at": 1.0,
        "state": "live",
        "bytes": 0,
        "queue": 0,
        "lag": 0,
        "opened": {},
        "positions": {},
        "resets": {},
        "taken": [],
        "closed_at": None,
        "reason": "",
    }
    ServerProcess.objects.create(
        name="a",
        host="h",
        pid=1,
        started_at=timezone.now(),
        seen_at=timezone.now(),
        streams=json.dumps({"open": [row], "ended": [{**row, "id": "ee", "state": "closed"}]}),
    )


@pytest.fixture
def event(seen: list[Event]) -> Event:
    return publish("orders", "order.updated", '{"card": "<b>4242</b>"}')


def revoked() -> list[Revocation]:
    """What the processes were told to end; of new permissions they are told too."""
    told = map(Revocation.of, event_log().since(CONTROL_GROUP, START, 100))
    return [revocation for revocation in told if not revocation.review]


def status(client: Client, url: str, **form: str) -> int:
    return (client.post(url, form) if form else client.get(url)).status_code


# --- who may what ---


def test_the_feed_answers_also_where_requests_are_transactions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    assert Client().get(FEED).status_code == 403


def test_anonymous_people_are_sent_to_the_login_and_get_no_feed(event: Event) -> None:
    client = Client()
    for url in (LIST, GROUP, REPLAY, EXPLAIN):
        assert client.get(url).headers["Location"].startswith("/admin/login/")
    assert client.post(f"{LIST}end/", {"stream": STREAM}).status_code == 302
    answer = client.get(FEED)
    assert answer.status_code == 403, "a redirect is no stream"
    assert "no-store" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ((), set()),
        ((END, READ, SEND), set()),
        ((VIEW,), {LIST, EXPLAIN}),
        ((VIEW, READ), {LIST, EXPLAIN, GROUP}),
        ((VIEW, SEND), {LIST, EXPLAIN}),
        ((VIEW, READ, SEND), {LIST, EXPLAIN, GROUP, REPLAY}),
    ],
)
def test_each_page_needs_its_permissions(
    event: Event, permissions: tuple[str, ...], allowed: set[str]
) -> None:
    client = staff(*permissions)
    for url in (LIST, EXPLAIN, GROUP, REPLAY):
        assert status(client, url) == (200 if url in allowed else 403), url
    if REPLAY not in allowed:
        assert status(client, REPLAY, target="orders") == 403
    if VIEW not in permissions:
        assert status(client, FEED) == 403


def test_somebody_with_the_permission_who_is_no_staff_sees_nothing() -> None:
    user = User.objects.create_user("visitor")
    user.user_permissions.add(Permission.objects.get(codename="view_serverprocess"))
    client = Client()
    client.force_login(user)
    assert client.get(LIST).status_code == 302
    assert client.get(FEED).status_code == 403


@pytest.mark.parametrize("permissions", [(), (VIEW,), (END,), (VIEW, READ, SEND)])
def test_only_who_may_end_streams_does(permissions: tuple[str, ...]) -> None:
    client = staff(*permissions)
    assert status(client, f"{LIST}end/", stream=STREAM) == 403
    assert status(client, f"{LIST}end/", user="77") == 403
    assert revoked() == []
    assert not RevocationRow.objects.exists()


def test_a_forged_post_ends_nothing() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    assert status(client, f"{LIST}end/", stream=STREAM) == 403
    assert revoked() == []


def test_nothing_is_ended_by_get() -> None:
    assert staff(VIEW, END).get(f"{LIST}end/?stream={STREAM}").status_code == 405
    assert revoked() == []


def test_nobody_adds_changes_or_deletes_a_row() -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}a/delete/", {"post": "yes"}).status_code == 403
    assert client.post(f"{LIST}a/change/", {"host": "other"}).status_code == 302
    assert ServerProcess.objects.get().host == "h"


def test_it_is_in_the_index_of_who_may_look_only() -> None:
    assert b"Live streams" in staff(VIEW).get("/admin/").content
    assert b"Live streams" not in staff("sse_app.view_broadcast").get("/admin/").content


def test_buttons_are_shown_to_those_who_may_use_them() -> None:
    page = staff(VIEW).get(LIST)
    assert page.context["dashboard"]["may"] == {"end": False, "read": False}
    page = staff(VIEW, END, READ).get(LIST)
    assert page.context["dashboard"]["may"] == {"end": True, "read": True}


# --- what it does ---


def test_one_stream_is_ended_and_the_admin_logs_it() -> None:
    client = staff(VIEW, END)
    answer = client.post(f"{LIST}end/", {"stream": STREAM})
    assert answer.status_code == 200
    assert STREAM in answer.json()["said"]
    assert revoked() == [Revocation(stream=STREAM)]
    assert not RevocationRow.objects.exists(), "nothing is taken from the user"
    entry = LogEntry.objects.get()
    assert (entry.object_id, entry.user.username) == (STREAM, "staff 0")
    assert "ann" in entry.object_repr
    url = entry.get_admin_url()
    assert url is not None
    assert client.get(url).headers["Location"] == LIST, "the log leads somewhere"


def test_all_streams_of_a_user_are_ended_and_the_admin_logs_it() -> None:
    user = User.objects.create_user("ann")
    answer = staff(VIEW, END).post(f"{LIST}end/", {"user": str(user.pk)})
    assert "ann" in answer.json()["said"]
    assert revoked() == [Revocation(user=str(user.pk))]
    assert RevocationRow.objects.get().user == str(user.pk)
    assert LogEntry.objects.get().object_repr == "ann"


def test_the_streams_of_a_token_are_ended_by_its_key() -> None:
    answer = staff(VIEW, END).post(f"{LIST}end/", {"user": "token:5"})
    assert answer.status_code == 200
    assert revoked() == [Revocation(user="token:5")]


@pytest.mark.parametrize("id", ["ee", "ff00"])
def test_a_stream_that_is_over_can_not_be_ended(id: str) -> None:
    assert status(staff(VIEW, END), f"{LIST}end/", stream=id) == 404
    assert revoked() == []
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    "form",
    [
        {"x": "1"},
        {"stream": "../etc"},
        {"stream": ""},
        {"stream": STREAM, "user": "1"},
        {"user": "1" * 65},
    ],
)
def test_a_post_that_names_neither_ends_nothing(form: dict[str, str]) -> None:
    assert status(staff(VIEW, END), f"{LIST}end/", **form) == 400
    assert revoked() == []


def test_a_groups_page_shows_its_log_as_text(event: Event) -> None:
    publish("orders", "plain", "<script>alert(1)</script>\nsecond line")
    answer = staff(VIEW, READ).get(GROUP)
    text = answer.content.decode()
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; second line" in text
    history = answer.context["history"]
    assert (history.head.offset, history.first, history.kept) == (2, 1, 2)
    assert [line.event.name for line in history.lines] == ["plain", "order.updated"]
    assert all((timezone.now() - line.at).total_seconds() < 60 for line in history.lines)
    assert "Send again" not in text, "who may not send is not asked to"


def test_long_data_is_shortened_and_only_the_latest_events_are_shown(seen: list[Event]) -> None:
    for n in range(60):
        publish("orders", "n", f"{n} " + "x" * 1000)
    history = staff(VIEW, READ).get(GROUP).context["history"]
    assert [line.event.offset for line in history.lines] == list(range(60, 10, -1))
    assert len(history.lines[0].short) < 130
    with override_settings(SSE_APP={"RETENTION_EVENTS": 5}):
        event_log().prune()
        history = staff(VIEW, READ).get(GROUP).context["history"]
    assert (history.first, history.kept, len(history.lines)) == (56, 5, 5)


def test_a_group_without_events_says_so_and_a_reserved_one_is_not_there() -> None:
    client = staff(VIEW, READ)
    assert b"no events" in client.get(GROUP).content
    assert client.get(f"{LIST}group/sse.control/").status_code == 404
    assert client.get(f"{LIST}group/%20x/").status_code == 404


def test_an_event_is_sent_again_as_a_new_one_and_the_admin_logs_it(
    event: Event, seen: list[Event]
) -> None:
    client = staff(VIEW, READ, SEND)
    assert b"4242" in client.get(REPLAY).content
    assert len(seen) == 1, "it asks first"
    answer = client.post(REPLAY, {"target": "chat.lobby"})
    assert answer.headers["Location"] == f"{LIST}group/chat.lobby/"
    again = seen[1]
    assert (again.group, again.name, again.data) == ("chat.lobby", event.name, event.data)
    assert "chat.lobby" in LogEntry.objects.get().change_message


@pytest.mark.parametrize("target", ["", "two words", "sse.control"])
def test_an_event_is_not_sent_to_what_is_no_group(
    event: Event, seen: list[Event], target: str
) -> None:
    answer = staff(VIEW, READ, SEND).post(REPLAY, {"target": target})
    assert answer.status_code == 200
    assert "Invalid group name" in answer.content.decode()
    assert len(seen) == 1
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("group", "name", "data", "why"),
    [
        ("chat.1", "presence.join", "{}", "only the app publishes"),
        ("chat.1", "n", "x" * 500, "MAX_EVENT_BYTES"),
    ],
)
def test_an_event_that_can_not_be_published_is_not_sent_again(
    seen: list[Event], group: str, name: str, data: str, why: str
) -> None:
    event_log().append([Event(group=group, name=name, data=data)])
    client = staff(VIEW, READ, SEND)
    with override_settings(SSE_APP={"MAX_EVENT_BYTES": 300}):
        answer = client.post(f"{LIST}group/{group}/replay/1/", {"target": "chat.2"})
    assert answer.status_code == 200
    assert why in answer.content.decode()
    assert not LogEntry.objects.exists()
    assert seen == []


def test_an_event_that_is_gone_is_not_sent(event: Event) -> None:
    assert staff(VIEW, READ, SEND).get(f"{GROUP}replay/7/").status_code == 404
    assert staff(VIEW, READ, SEND).get(f"{GROUP}replay/0/").status_code == 404


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("stream=0011aabb&group=orders&offset=1", 'data-reason="coming"'),
        ("stream=0011aabb&group=chat&offset=1", 'data-reason="group"'),
        ("stream=zz&group=orders&offset=1", 'data-reason="unknown"'),
        ("stream=0011aabb&group=orders&offset=x", "errornote"),
        ("stream=0011aabb&group=%20&offset=1", "192.0.2.1"),
        ("stream=0011aabb&group=sse.control&offset=1", "errornote"),
        ("stream=0011aabb&group=orders&offset=0", "errornote"),
        ("group=orders&offset=1&epoch=abc", 'value="0011aabb"'),
        ("stream=%3Cscript%3E&group=orders&offset=1", "&lt;script&gt;"),
    ],
)
def test_the_page_that_explains(event: Event, query: str, said: str) -> None:
    page = staff(VIEW).get(f"{EXPLAIN}?{query}")
    assert page.status_code == 200
    assert said in page.content.decode()


def test_only_who_may_read_events_is_told_the_name_of_one(event: Event) -> None:
    row = ServerProcess.objects.get()
    streams = row.all_streams()
    streams["open"][0] |= {"events": ["other"], "positions": {"orders": "e-1"}}
    epoch = event_log().heads(["orders"])["orders"].epoch
    streams["open"][0]["positions"] = {"orders": f"{epoch}-1"}
    streams["open"][0]["opened"] = {"orders": f"{epoch}-0"}
    row.streams = json.dumps(streams)
    row.save()
    query = {"stream": STREAM, "group": "orders", "offset": "1"}
    told = {
        name: staff(*permissions).get(EXPLAIN, query).content.decode()
        for name, permissions in {"reads": (VIEW, READ), "looks": (VIEW,)}.items()
    }
    assert "this one is order.updated" in told["reads"]
    assert "order.updated" not in told["looks"]
    assert "The event&#x27;s name is not known here" in told["looks"]


def test_an_older_process_understands_what_does_not_name_a_stream() -> None:
    older = {"user", "session", "group", "review"}
    assert Revocation(user="1").to_event().json().keys() == older
    assert Revocation(stream="a").to_event().json().keys() == {*older, "stream"}


def test_a_look_at_the_rows_parses_a_list_only_when_it_is_another(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    polling, parsed = poller.Poller(), []
    polling.poll()
    with django_assert_max_num_queries(0):
        assert polling.poll() is polling.fresh, "who comes a moment later sees the same"
    monkeypatch.setattr(poller, "FRESH_SECONDS", 0.0)
    polling = poller.Poller()
    listed = poller.listed

    def parse(row: ServerProcess) -> Any:
        parsed.append(row.name)
        return listed(row)

    monkeypatch.setattr(poller, "listed", parse)
    first = polling.poll()
    assert ServerProcess.objects.get().watched_until is not None
    assert [row["id"] for row in first.opened] == [STREAM]
    assert first.opened[0]["process"] == "h 1"
    with django_assert_max_num_queries(1):
        assert polling.poll().version == first.version
    assert parsed == ["a"]
    ServerProcess.objects.update(streams='{"open": [], "ended": []}')
    assert polling.poll().version != first.version
    assert parsed == ["a", "a"]
    ServerProcess.objects.all().delete()
    assert polling.poll().processes == []
