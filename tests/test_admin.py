"""Broadcasts and access tokens in Django's admin."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.test import Client, override_settings

from project.models import Order
from sse_app.admin import PERMISSION, BroadcastActionMixin
from sse_app.events import Event
from sse_app.models import AccessToken, Broadcast
from sse_app.tokens import create_token, verify_token

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/sse_app/broadcast/"
ADD = f"{LIST}add/"
TOKENS = "/admin/sse_app/accesstoken/"
ORDERS = "/admin/project/order/"


def staff(*permissions: str) -> Client:
    """A client signed in as somebody on the staff who has just these permissions."""
    user = User.objects.create_user(f"staff {User.objects.count()}", is_staff=True)
    for name in permissions:
        user.user_permissions.add(
            Permission.objects.get(
                content_type__app_label=name.split(".")[0], codename=name.split(".")[1]
            )
        )
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def sender() -> Client:
    return staff(PERMISSION)


def form(data: Any, **fields: Any) -> dict[str, Any]:
    return {"group": "orders", "event": "announcement", "data": data, **fields}


def errors(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.status_code
    return answer.context["adminform"].form.errors


def test_adding_a_broadcast_publishes_it(sender: Client, seen: list[Event]) -> None:
    assert sender.post(ADD, form('{"text": "Closing soon"}')).status_code == 302
    ((group, name, data, offset),) = [(e.group, e.name, e.json(), e.offset) for e in seen]
    assert (group, name, data, offset) == ("orders", "announcement", {"text": "Closing soon"}, 1)
    row = Broadcast.objects.get()
    assert row.sent_by is not None
    assert row.sent_by.username == "staff 0"


@pytest.mark.parametrize(
    ("typed", "sent"),
    [('"<b>Hi</b>"', "<b>Hi</b>"), ('{"a": 1}', '{"a":1}'), ("[1, 2]", "[1,2]"), ("5", "5")],
)
def test_a_json_string_goes_out_as_text_and_the_rest_as_json(
    sender: Client, seen: list[Event], typed: str, sent: str
) -> None:
    assert sender.post(ADD, form(typed)).status_code == 302
    assert [event.data for event in seen] == [sent]


@pytest.mark.parametrize("typed", ["", "null"])
def test_data_may_be_left_empty(sender: Client, seen: list[Event], typed: str) -> None:
    assert sender.post(ADD, form(typed)).status_code == 302
    assert len(seen) == 1


def test_a_broadcast_is_in_the_admins_log(sender: Client) -> None:
    sender.post(ADD, form('"x"'))
    entry = LogEntry.objects.get()
    assert entry.action_flag == ADDITION
    assert entry.get_edited_object() == Broadcast.objects.get()
    assert entry.user.username == "staff 0"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"group": "bad name"}, "group"),
        ({"group": "sse.x"}, "group"),
        ({"group": ""}, "group"),
        ({"event": "two words"}, "event"),
        ({"event": "sse.open"}, "event"),
        ({"data": "{"}, "data"),
        ({"data": "NaN"}, "data"),
    ],
)
def test_what_could_not_be_published_is_an_error_of_the_form(
    sender: Client, seen: list[Event], fields: dict[str, str], wrong: str
) -> None:
    answer = sender.post(ADD, {**form('"x"'), **fields})
    assert wrong in errors(answer)
    assert seen == []
    assert not Broadcast.objects.exists()


def test_a_broadcast_with_a_lone_surrogate_is_not_valid() -> None:
    with pytest.raises(ValidationError, match="surrogate"):
        Broadcast(group="orders", event="n", data="\ud800").full_clean()


def test_a_lone_surrogate_in_the_form_is_an_error_shown_with_what_was_typed(
    sender: Client, seen: list[Event]
) -> None:
    answer = sender.post("/admin/sse_app/broadcast/add/", form('"a\\ud800"'))
    assert "surrogate" in str(errors(answer)["data"])
    assert "a\\ud800" in answer.content.decode()
    assert seen == []


def test_data_over_the_size_limit_is_an_error_of_the_form(
    sender: Client, seen: list[Event]
) -> None:
    with override_settings(SSE_APP={"MAX_EVENT_BYTES": 100}):
        answer = sender.post(ADD, form(json.dumps("x" * 200)))
    assert "data" in errors(answer)
    assert seen == []
    assert not Broadcast.objects.exists()


def test_what_was_sent_can_be_looked_at_and_not_be_changed(
    sender: Client, seen: list[Event]
) -> None:
    sender.post(ADD, form('"x"'))
    row = Broadcast.objects.get()
    page = f"{LIST}{row.pk}/change/"
    answer = sender.get(page)
    assert answer.status_code == 200
    assert b'name="group"' not in answer.content
    assert sender.get(LIST).status_code == 200
    assert sender.post(page, form('"other"')).status_code == 403
    assert sender.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    row.refresh_from_db()
    assert row.data == "x"
    assert len(seen) == 1


def test_even_a_superuser_does_not_change_what_was_sent(sender: Client) -> None:
    sender.post(ADD, form('"x"'))
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    pk = Broadcast.objects.get().pk
    assert root.post(f"{LIST}{pk}/change/", form('"other"')).status_code == 403
    assert root.get(f"{LIST}{pk}/delete/").status_code == 403


def test_sending_needs_its_own_permission(seen: list[Event]) -> None:
    viewer = staff("sse_app.view_broadcast")
    assert viewer.get(LIST).status_code == 200
    assert viewer.get(ADD).status_code == 403
    assert viewer.post(ADD, form('"x"')).status_code == 403
    nobody = staff()
    assert nobody.get(LIST).status_code == 403
    assert nobody.post(ADD, form('"x"')).status_code == 403
    assert seen == []


def test_a_broadcast_outlives_who_sent_it(sender: Client) -> None:
    sender.post(ADD, form('"x"'))
    LogEntry.objects.all().delete()
    User.objects.all().delete()
    assert Broadcast.objects.get().sent_by is None


# --- the action ---


@pytest.fixture
def orders(seen: list[Event]) -> list[Order]:
    made = [Order.objects.create(customer="Ada", item=f"Lamp {n}", total=5) for n in range(3)]
    seen.clear()
    return made


def act(client: Client, *orders: Order) -> Any:
    chosen = [str(order.pk) for order in orders]
    return client.post(ORDERS, {"action": "broadcast_selected", "_selected_action": chosen})


def test_the_action_broadcasts_the_selected_orders(seen: list[Event], orders: list[Order]) -> None:
    client = staff(PERMISSION, "project.view_order")
    assert act(client, *orders[:2]).status_code == 302
    assert {event.group for event in seen} == {"orders"}
    assert {event.name for event in seen} == {BroadcastActionMixin.broadcast_event}
    assert {event.json()["pk"] for event in seen} == {order.pk for order in orders[:2]}
    entries = LogEntry.objects.filter(action_flag=CHANGE)
    assert {entry.object_id for entry in entries} == {str(order.pk) for order in orders[:2]}


def test_the_action_is_offered_to_those_only_who_may_send(
    seen: list[Event], orders: list[Order]
) -> None:
    able = staff(PERMISSION, "project.view_order")
    unable = staff("project.view_order", "project.change_order")
    assert b"broadcast_selected" in able.get(ORDERS).content
    assert b"broadcast_selected" not in unable.get(ORDERS).content
    act(unable, *orders)
    assert seen == []
    assert not LogEntry.objects.exists()


# --- access tokens ---


@pytest.fixture
def text() -> str:
    return create_token(
        "importer", publish=["import.*"], events=["row.*"], lifetime=timedelta(days=1)
    )[1]


def act_on_tokens(client: Client, action: str, **fields: str) -> Any:
    chosen = [str(pk) for pk in AccessToken.objects.values_list("pk", flat=True)]
    return client.post(TOKENS, {"action": action, "_selected_action": chosen, **fields})


def test_tokens_are_listed_with_rights_and_end_and_how_one_is_made(text: str) -> None:
    viewer = staff("sse_app.view_accesstoken")
    token = AccessToken.objects.get()
    page = viewer.get(TOKENS).content.decode()
    for said in ("importer", "import.*", "row.*", str(token.expires_at.year), "sse_token create"):
        assert said in page
    AccessToken.objects.all().delete()
    assert "manage.py sse_token create" in viewer.get(TOKENS).content.decode()


def test_no_page_shows_a_digest_or_a_secret(text: str) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    token = AccessToken.objects.get()
    act_on_tokens(root, "revoke_selected")
    for part in ("", f"{token.pk}/change/", f"{token.pk}/delete/", f"{token.pk}/history/"):
        answer = root.get(TOKENS + part)
        assert answer.status_code == 200
        assert token.digest not in answer.content.decode()
        assert text.split("_", 2)[2] not in answer.content.decode()
    assert act_on_tokens(root, "delete_selected").status_code == 200


def test_nobody_makes_a_token_there_or_changes_what_one_permits(text: str) -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    token = AccessToken.objects.get()
    assert root.get(f"{TOKENS}add/").status_code == 403
    assert root.post(f"{TOKENS}add/", {"name": "x"}).status_code == 403
    fields = {"name": "x", "publish": '["*"]', "events": '["*"]'}
    assert root.post(f"{TOKENS}{token.pk}/change/", fields).status_code == 403
    assert AccessToken.objects.get().publish == ["import.*"]


def test_the_action_revokes_and_is_in_the_admins_log_once(text: str) -> None:
    client = staff("sse_app.view_accesstoken", "sse_app.change_accesstoken")
    assert act_on_tokens(client, "revoke_selected").status_code == 302
    assert verify_token(text) is None
    act_on_tokens(client, "revoke_selected")
    entry = LogEntry.objects.get()
    assert (entry.object_repr, entry.change_message) == ("importer", "Revoked.")


def test_revoking_needs_the_permission_to_change(text: str) -> None:
    viewer = staff("sse_app.view_accesstoken", "sse_app.delete_accesstoken")
    assert b"revoke_selected" not in viewer.get(TOKENS).content
    act_on_tokens(viewer, "revoke_selected")
    assert verify_token(text) is not None


def test_deleting_needs_its_permission_and_ends_the_token(text: str) -> None:
    unable = staff("sse_app.view_accesstoken", "sse_app.change_accesstoken")
    act_on_tokens(unable, "delete_selected", post="yes")
    assert verify_token(text) is not None
    able = staff("sse_app.view_accesstoken", "sse_app.delete_accesstoken")
    act_on_tokens(able, "delete_selected", post="yes")
    assert verify_token(text) is None
    assert not AccessToken.objects.exists()
