"""Broadcasts in Django's admin: composing in two steps, the history, cancelling and repeating."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client, override_settings
from django.utils import timezone

from sse_app import publish
from sse_app.admin import PERMISSION
from sse_app.broadcasts import sending
from sse_app.models import Broadcast, BroadcastCount
from sse_app.operations import processes
from sse_app.protocol.events import Event

from ..support.staff import staff

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/sse_app/broadcast/"
ADD = f"{LIST}add/"


@pytest.fixture
def sender() -> Client:
    return staff(PERMISSION)


def form(body: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"groups": "orders", "event": "announcement", "kind": "text", "body": body, **fields}


def at(moment: Any) -> dict[str, str]:
    """The fields of a time, as the admin's widget posts them."""
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    return {"send_at_0": local.strftime("%Y-%m-%d"), "send_at_1": local.strftime("%H:%M:%S")}


def confirm(client: Client, fields: dict[str, Any]) -> Any:
    """Compose, read the page that asks, and send just what that page would send."""
    page = client.post(ADD, fields)
    assert page.status_code == 200, page.status_code
    assert 'name="_confirm"' in page.content.decode(), page.context["form"].errors
    return client.post(ADD, {**hidden(page), "_confirm": "1"})


def hidden(page: Any) -> dict[str, Any]:
    """The hidden fields of a page's form."""
    from html import unescape

    found: dict[str, Any] = {}
    main = page.content.decode().split('id="broadcast_form"')[1]
    for tag in re.findall(r'<input type="hidden"[^>]*>', main):
        name = re.search(r'name="([^"]*)"', tag)
        value = re.search(r'value="([^"]*)"', tag)
        assert name
        found.setdefault(name[1], []).append(unescape(value[1]) if value else "")
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def errors(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.status_code
    return dict(answer.context["form"].errors)


def said(client: Client) -> str:
    """The messages that the list shows."""
    return " ".join(str(message) for message in client.get(LIST).context["messages"])


# --- compose and confirm ---


def test_it_is_sent_only_when_it_was_confirmed(sender: Client, seen: list[Event]) -> None:
    page = sender.post(ADD, form("Closing <b>soon</b>", groups="orders, news orders"))
    assert page.status_code == 200
    for shown in ("orders", "news", "announcement", "Closing &lt;b&gt;soon&lt;/b&gt;", "now"):
        assert shown in page.content.decode()
    assert seen == []
    assert not Broadcast.objects.exists()
    assert sender.post(ADD, {**hidden(page), "_confirm": "1"}).status_code == 302
    told = [(event.group, event.name, event.data, event.offset) for event in seen]
    assert told == [
        ("orders", "announcement", "Closing <b>soon</b>", 1),
        ("news", "announcement", "Closing <b>soon</b>", 1),
    ]
    row = Broadcast.objects.get()
    assert (row.state, row.groups) == ("sent", ["orders", "news"])
    assert row.sent_by is not None
    assert row.sent_by.username == "staff 0"
    assert "announcement → orders, news was sent" in said(sender)


def test_what_was_typed_survives_the_page_that_asks(sender: Client, seen: list[Event]) -> None:
    body = "  a\r\n\r\n\"<'&  é\t\u2028🎈 "
    confirm(sender, form(body))
    assert [event.data for event in seen] == [body.replace("\r\n", "\n")]


def test_the_page_that_asks_leads_back_with_what_was_typed(sender: Client) -> None:
    page = sender.post(ADD, form("<kept>"))
    back = sender.post(ADD, {**hidden(page), "_back": "1"})
    assert back.context["form"]["body"].value() == "<kept>"
    assert 'name="_continue"' in back.content.decode()


def test_a_confirmation_that_comes_twice_sends_once(sender: Client, seen: list[Event]) -> None:
    page = sender.post(ADD, form())
    fields = {**hidden(page), "_confirm": "1"}
    for _ in range(2):
        assert sender.post(ADD, fields).status_code == 302
    assert len(seen) == 1
    assert Broadcast.objects.count() == LogEntry.objects.count() == 1
    assert "confirmed before" in said(sender)


def test_what_is_confirmed_is_checked_again(sender: Client, seen: list[Event]) -> None:
    page = sender.post(ADD, form())
    fields = {**hidden(page), "_confirm": "1", "groups": "sse.control"}
    assert set(errors(sender.post(ADD, fields))) == {"groups"}
    assert seen == []


def test_a_time_that_passes_while_the_page_asks_is_an_error(
    sender: Client, seen: list[Event]
) -> None:
    past = at(timezone.now() - timedelta(seconds=2))
    page = sender.post(ADD, form(**at(timezone.now() + timedelta(hours=1))))
    answer = sender.post(ADD, {**hidden(page), "_confirm": "1", **past})
    assert set(errors(answer)) == {"send_at"}
    assert not Broadcast.objects.exists()


def test_the_preview_shows_what_would_go_out_and_sends_nothing(
    sender: Client, seen: list[Event]
) -> None:
    answer = sender.post(ADD, form("{{ sender }} <b>\r\n", _preview="1"))
    assert "{{ sender }} &lt;b&gt;" in answer.content.decode()
    answer = sender.post(ADD, form('{"a":  1}', kind="json", _preview="1"))
    assert "{&quot;a&quot;:1}" in answer.content.decode()
    answer = sender.post(ADD, form("{% nonsense %}", kind="json", _preview="1"))
    assert "Invalid JSON" in str(errors(answer)["body"])
    assert seen == []
    assert not Broadcast.objects.exists()


def test_a_broadcast_is_in_the_admins_log(sender: Client) -> None:
    confirm(sender, form(groups="orders news"))
    entry = LogEntry.objects.get()
    assert entry.action_flag == ADDITION
    assert entry.get_edited_object() == Broadcast.objects.get()
    assert entry.user.username == "staff 0"
    assert entry.get_change_message() == "Sent to orders, news."


def test_a_scheduled_one_waits_for_its_time(sender: Client, seen: list[Event]) -> None:
    when = timezone.now() + timedelta(hours=1)
    confirm(sender, form(**at(when)))
    row = Broadcast.objects.get()
    assert (row.state, row.sent_at, seen) == ("scheduled", None, [])
    assert row.send_at == when.replace(microsecond=0)
    assert LogEntry.objects.get().get_change_message().startswith("Scheduled for ")
    assert "is scheduled for" in said(sender)
    Broadcast.objects.update(send_at=timezone.now())
    sending.send_due()
    assert len(seen) == 1


def test_the_number_of_listeners_is_shown(sender: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, text in ((0, "0 streams"), (1, "1 stream "), (1234, "1234 streams")):
        monkeypatch.setattr(processes, "listeners", lambda groups, number=number: number)
        assert f"At least {text}" in sender.post(ADD, form()).content.decode()


def test_a_log_that_is_away_is_told_to_who_sent_it(sender: Client, seen: list[Event]) -> None:
    away = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": "redis://127.0.0.1:1/0"}
    with override_settings(SSE_APP={"EVENT_LOG": away}):
        assert confirm(sender, form()).status_code == 302
    assert Broadcast.objects.get().state == "failed"
    assert "was not sent" in said(sender)
    assert seen == []


def test_with_atomic_requests_it_leaves_with_the_request(
    sender: Client, seen: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "ATOMIC_REQUESTS", True)
    assert confirm(sender, form()).status_code == 302
    assert len(seen) == 1
    assert Broadcast.objects.get().state == "sent"
    assert "about to be sent" in said(sender)


# --- what is refused ---


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"groups": "bad name!"}, "groups"),
        ({"groups": "sse.x"}, "groups"),
        ({"groups": ""}, "groups"),
        ({"groups": " , ;\n"}, "groups"),
        ({"groups": "orders\0"}, "groups"),
        ({"groups": "gruppe.ä"}, "groups"),
        ({"groups": " ".join(f"g{n}" for n in range(100))}, "groups"),
        ({"groups": "g" * 81}, "groups"),
        ({"groups": "g" * 100_000}, "groups"),
        ({"event": "two words"}, "event"),
        ({"event": "sse.open"}, "event"),
        ({"event": ""}, "event"),
        ({"event": "n\0"}, "event"),
        ({"event": "n" * 65}, "event"),
        ({"kind": "yaml"}, "kind"),
        ({"kind": ""}, "kind"),
        ({"kind": "json", "body": "{"}, "body"),
        ({"kind": "json", "body": "NaN"}, "body"),
        ({"kind": "json", "body": '"a\\ud800"'}, "body"),
        ({"kind": "json", "body": "[" * 50_000}, "body"),
        ({"kind": "template", "body": "{{ sender }}"}, "kind"),
        ({"body": "a\0b"}, "body"),
        ({"body": "x" * 200_000}, "body"),
        ({"body": "\n" * 30_000}, "body"),
        ({"send_at_0": "2001-01-01", "send_at_1": "10:00"}, "send_at"),
        ({"send_at_0": "2999-01-01", "send_at_1": "10:00"}, "send_at"),
        ({"send_at_0": "9999-12-31", "send_at_1": "23:59:59"}, "send_at"),
        ({"send_at_0": "0001-01-01", "send_at_1": "00:00"}, "send_at"),
        ({"send_at_0": "tomorrow", "send_at_1": "10:00"}, "send_at"),
        ({"send_at_0": "2026-01-01", "send_at_1": ""}, "send_at"),
        ({"send_at_0": "2026\0", "send_at_1": "10:00"}, "send_at"),
    ],
)
@pytest.mark.parametrize("step", ["_continue", "_preview", "_confirm"])
def test_what_could_not_be_sent_is_an_error_of_its_field(
    sender: Client, seen: list[Event], fields: dict[str, str], wrong: str, step: str
) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        with timezone.override(zone):
            answer = sender.post(ADD, {**form(), **fields, step: "1"})
        assert set(errors(answer)) == {wrong}
        assert len(errors(answer)[wrong]) == 1
    assert seen == []
    assert not Broadcast.objects.exists()


@pytest.mark.parametrize("once", ["", "x", "\0" * 20, "x" * 500, "<script>alert(1)</script>"])
def test_a_made_up_name_of_the_page_is_not_taken(
    sender: Client, seen: list[Event], once: str
) -> None:
    fields = {**form(), "_confirm": "1", "once": once}
    assert sender.post(ADD, fields).status_code == 302
    assert len(seen) == 1
    assert Broadcast.objects.get().once not in (once, None)


def test_an_empty_form_shows_what_is_missing(sender: Client) -> None:
    assert set(errors(sender.post(ADD, {}))) == {"groups", "event", "kind"}


def test_a_post_of_another_site_is_refused(seen: list[Event]) -> None:
    root = User.objects.create_superuser("root")
    client = Client(enforce_csrf_checks=True)
    client.force_login(root)
    row = Broadcast.objects.create(groups=["orders"], event="n", kind="text", body="x")
    for step in ("_continue", "_preview", "_confirm"):
        assert client.post(ADD, {**form(), step: "1"}).status_code == 403
    for action in ("cancel_selected", "repeat_selected"):
        chosen = {"action": action, "_selected_action": [row.pk], "_confirm": "1"}
        assert client.post(LIST, {**chosen, "once": "x" * 20}).status_code == 403
    row.refresh_from_db()
    assert (row.state, seen) == ("scheduled", [])


def test_sending_needs_its_own_permission(seen: list[Event]) -> None:
    row = Broadcast.objects.create(groups=["orders"], event="n", kind="text", body="x")
    viewer = staff("sse_app.view_broadcast")
    nobody = staff()
    assert viewer.get(LIST).status_code == 200
    assert nobody.get(LIST).status_code == 403
    for client in (viewer, nobody):
        assert client.get(ADD).status_code == 403
        assert client.get(f"{LIST}groups/?q=o").status_code == 403
        for step in ("_continue", "_preview", "_confirm"):
            assert client.post(ADD, {**form(), step: "1"}).status_code == 403
        for action in ("cancel_selected", "repeat_selected"):
            act(client, action, row, _confirm="1", once="x" * 20)
    assert b"repeat_selected" not in viewer.get(LIST).content
    anonymous = Client().get(f"{LIST}groups/?q=o")
    assert anonymous.status_code == 302
    assert "login" in anonymous["Location"]
    row.refresh_from_db()
    assert (row.state, seen, Broadcast.objects.count()) == ("scheduled", [], 1)


# --- the names of groups ---


def test_known_groups_are_offered(sender: Client) -> None:
    for group in ("order.1", "order.2", "news"):
        publish(group, "n", "")
    assert sender.get(f"{LIST}groups/?q=order").json() == {
        "groups": ["order.1", "order.2", "orders"]
    }
    for n in range(30):
        publish(f"many.{n:02}", "n", "")
    assert len(sender.get(f"{LIST}groups/?q=many").json()["groups"]) == 20
    for strange in ("%00", "%ff", "%25", "'", "*", "x" * 3000):
        assert sender.get(f"{LIST}groups/?q={strange}").status_code == 200
    assert sender.post(f"{LIST}groups/").status_code == 405


# --- the history ---


def test_the_history_shows_who_sent_what_when_to_whom_and_to_how_many(sender: Client) -> None:
    confirm(sender, form(groups="orders news"))
    row = Broadcast.objects.get()
    for process, streams in (("a", 1200), ("b", 34)):
        BroadcastCount.objects.create(
            broadcast=row, process=process, streams=streams, counted_at=timezone.now()
        )
    for page in (LIST, f"{LIST}{row.pk}/change/"):
        text = sender.get(page).content.decode()
        for shown in ("announcement", "orders, news", "sent", "staff 0", "1234"):
            assert shown in text, (page, shown)


def test_where_it_can_not_be_counted_no_number_is_shown(sender: Client) -> None:
    """As where the process died between the commit and what follows it."""
    Broadcast.objects.create(groups=["orders"], event="n", state="sent", sent_at=timezone.now())
    assert '<td class="field-delivered">–</td>' in sender.get(LIST).content.decode()
    Broadcast.objects.update(places=[["orders", "abc", 1]])
    assert '<td class="field-delivered">0</td>' in sender.get(LIST).content.decode()


def test_the_history_is_filtered_by_state_and_by_group(sender: Client) -> None:
    for groups, state in ((["order"], "sent"), (["orders", "a_b"], "sent"), (["axb"], "failed")):
        Broadcast.objects.create(groups=groups, event="n", state=state)

    def listed(query: str) -> list[Any]:
        answer = sender.get(f"{LIST}?{query}")
        assert answer.status_code == 200
        return sorted(row.groups for row in answer.context["cl"].result_list)

    assert listed("group=order") == [["order"]]
    assert listed("group=a_b") == [["orders", "a_b"]]
    assert listed("state__exact=failed") == [["axb"]]
    assert listed("o=3.4.5") == listed("")
    for strange in ("%00", "%25", "'", '"'):
        assert sender.get(f"{LIST}?group={strange}").status_code in (200, 302)


def test_an_error_is_shown(sender: Client) -> None:
    row = Broadcast.objects.create(groups=["g"], event="n", state="failed", error="<b>no</b>")
    assert "&lt;b&gt;no&lt;/b&gt;" in sender.get(f"{LIST}{row.pk}/change/").content.decode()


def test_what_was_sent_can_be_looked_at_and_not_be_changed(
    sender: Client, seen: list[Event]
) -> None:
    confirm(sender, form("<i>x</i>"))
    row = Broadcast.objects.get()
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    for client in (sender, root):
        page = f"{LIST}{row.pk}/change/"
        answer = client.get(page)
        assert answer.status_code == 200
        assert b"&lt;i&gt;x&lt;/i&gt;" in answer.content
        assert b'name="groups"' not in answer.content
        assert client.get(f"{LIST}{row.pk}/history/").status_code == 200
        assert client.post(page, form("other")).status_code == 403
        assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    row.refresh_from_db()
    assert row.body == "<i>x</i>"
    assert len(seen) == 1


def test_a_broadcast_outlives_who_sent_it(sender: Client) -> None:
    confirm(sender, form())
    LogEntry.objects.all().delete()
    User.objects.all().delete()
    assert Broadcast.objects.get().sent_by is None


# --- cancelling and repeating ---


def act(client: Client, action: str, *rows: Broadcast, **fields: str) -> Any:
    chosen = [str(row.pk) for row in rows]
    return client.post(LIST, {"action": action, "_selected_action": chosen, **fields})


def test_what_is_scheduled_can_be_cancelled(sender: Client, seen: list[Event]) -> None:
    confirm(sender, form(**at(timezone.now() + timedelta(hours=1))))
    confirm(sender, form())
    seen.clear()
    scheduled = Broadcast.objects.get(state="scheduled")
    sent = Broadcast.objects.get(state="sent")
    assert act(sender, "cancel_selected", scheduled, sent).status_code == 302
    scheduled.refresh_from_db()
    sent.refresh_from_db()
    assert (scheduled.state, sent.state) == ("cancelled", "sent")
    assert "1 broadcast was cancelled. The others" in said(sender)
    entry = LogEntry.objects.get(action_flag=CHANGE)
    assert (entry.object_id, entry.change_message) == (str(scheduled.pk), "Cancelled.")
    Broadcast.objects.filter(pk=scheduled.pk).update(send_at=timezone.now())
    sending.send_due()
    assert seen == []


def test_what_was_sent_can_be_repeated_after_a_page_that_asks(
    sender: Client, seen: list[Event]
) -> None:
    confirm(sender, form("{{ sender }} 1", groups="orders news"))
    confirm(sender, form("2"))
    seen.clear()
    rows = list(Broadcast.objects.order_by("pk"))
    other = staff(PERMISSION)
    page = act(other, "repeat_selected", *rows)
    assert page.status_code == 200
    assert "{{ sender }} 1" in page.content.decode()
    assert seen == []
    fields = {**hidden(page), "_confirm": "1"}
    for _ in range(2):  # A second click.
        assert other.post(LIST, fields).status_code == 302
    told = [(event.group, event.data) for event in seen]
    both = "{{ sender }} 1"
    assert told == [("orders", both), ("news", both), ("orders", "2")]
    assert Broadcast.objects.filter(state="sent").count() == 4
    repeated = LogEntry.objects.filter(action_flag=CHANGE)
    assert {entry.object_id for entry in repeated} == {str(row.pk) for row in rows}
    assert {entry.change_message[:12] for entry in repeated} == {"Repeated as "}


def test_not_everything_is_repeated_at_once(sender: Client, seen: list[Event]) -> None:
    rows = [
        Broadcast.objects.create(groups=["g"], event="n", kind="text", state="sent")
        for _ in range(21)
    ]
    assert act(sender, "repeat_selected", *rows, _confirm="1", once="x" * 20).status_code == 302
    assert "at most 20" in said(sender)
    assert seen == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": "template", "body": "{{ sender }}"}, "“template” can't be sent"),
        ({"body": "x" * 70_000}, "MAX_EVENT_BYTES"),
    ],
)
def test_what_can_not_be_sent_any_more_is_not_repeated(
    sender: Client, seen: list[Event], fields: dict[str, str], why: str
) -> None:
    rows = [
        Broadcast.objects.create(**{"groups": ["g"], "event": "n", "kind": "text"} | more)
        for more in (fields | {"state": "sent"}, {"state": "sent"})
    ]
    for asked in ({}, {"_confirm": "1", "once": "x" * 20}):
        assert act(sender, "repeat_selected", *rows, **asked).status_code == 302
        assert why in said(sender)
    assert seen == []
    assert Broadcast.objects.count() == 2


def test_a_template_of_an_earlier_release_can_be_looked_at(sender: Client) -> None:
    row = Broadcast.objects.create(
        groups=["g"], event="n", kind="template", body="{{ sender }}", state="sent"
    )
    text = sender.get(f"{LIST}{row.pk}/change/").content.decode()
    assert "{{ sender }}" in text
    assert '<div class="readonly">template</div>' in text
    assert sender.get(LIST).status_code == 200
    assert "template" not in sender.get(ADD).content.decode()


def test_the_filter_offers_a_limited_number_of_groups(sender: Client) -> None:
    for row in range(10):
        groups = [f"g{row}.{number}" for number in range(20)]
        Broadcast.objects.create(groups=groups, event="n", state="sent")
    text = sender.get(LIST).content.decode()
    assert text.count("?group=g") == 100
    assert "?group=g9.0" in text
    assert "?group=g0.0" not in text
    assert sender.get(f"{LIST}?group=g0.0").context["cl"].result_count == 1
