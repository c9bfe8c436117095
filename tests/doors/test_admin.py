"""Access tokens in Django's admin, and the action that broadcasts selected rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.sites import site
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.db.models.signals import pre_save
from django.test import Client

from project.models import Order
from sse_app.access.tokens import create_token, verify_token
from sse_app.admin import PERMISSION, BroadcastActionMixin
from sse_app.broadcasts import action
from sse_app.models import AccessToken
from sse_app.protocol.events import Event

from ..support.staff import staff

pytestmark = pytest.mark.django_db(transaction=True)

TOKENS = "/admin/sse_app/accesstoken/"
ORDERS = "/admin/project/order/"


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


@pytest.mark.parametrize(
    "wrong", [{"data": float("nan")}, {"data": object()}, {"group": "no name"}]
)
def test_what_can_not_be_published_is_said_and_none_is_sent(
    seen: list[Event], orders: list[Order], wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of the selected rows is the one that can't: those before it wait for it."""
    site_admin = site.get_model_admin(Order)
    assert isinstance(site_admin, BroadcastActionMixin)
    monkeypatch.setattr(site_admin, "broadcast_group", wrong.get("group", "orders"))
    first = orders[-1].pk
    monkeypatch.setattr(
        site_admin, "broadcast_data", lambda obj: obj.pk if obj.pk == first else wrong.get("data")
    )
    client = staff(PERMISSION, "project.view_order")
    answer = act(client, *orders)
    assert answer.status_code == 302
    assert b"Nothing was sent" in client.get(ORDERS).content
    assert seen == []
    assert not LogEntry.objects.exists()


def test_a_selection_of_a_whole_table_is_refused(
    seen: list[Event], orders: list[Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action, "MOST_SELECTED", 2)
    client = staff(PERMISSION, "project.view_order")
    assert act(client, *orders).status_code == 302
    assert b"at most 2 rows" in client.get(ORDERS).content
    assert seen == []
    act(client, *orders[:2])
    assert len(seen) == 2


def test_an_event_of_the_action_leaves_only_with_its_entry_in_the_log(
    seen: list[Event], orders: list[Order]
) -> None:
    last = str(orders[0].pk)

    def refuse(instance: LogEntry, **kwargs: Any) -> None:
        if str(instance.object_id) == last:
            raise ValueError("no room")

    pre_save.connect(refuse, sender=LogEntry)
    try:
        act(staff(PERMISSION, "project.view_order"), *orders)
    finally:
        pre_save.disconnect(refuse, sender=LogEntry)
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


def test_the_icon_that_browsers_ask_for_on_the_admins_pages_exists(client: Client) -> None:
    answer = client.get("/favicon.ico")
    assert answer.status_code == 302
    assert finders.find(answer["Location"].removeprefix(settings.STATIC_URL))
