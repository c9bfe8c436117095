"""The management commands over the log."""

from __future__ import annotations

from io import StringIO
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError
from django.template import Context, Template
from django.test import override_settings

from sse_app import apublish_many, cursor, publish, publish_many
from sse_app.eventlog import event_log
from sse_app.models import StoredEvent
from sse_app.operations import housekeeping

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_prune_deletes_what_is_beyond_retention_and_says_how_much() -> None:
    publish_many([("g", "n", str(n)) for n in range(1200)])
    with override_settings(SSE_APP={"RETENTION_EVENTS": 100}):
        assert run("sse_prune").startswith("Deleted 1100 event(s)")
        assert run("sse_prune").startswith("Deleted 0 event(s)")
    assert StoredEvent.objects.count() == 100
    with override_settings(SSE_APP={"RETENTION_SECONDS": None}):
        text = "Deleted 0 event(s) beyond the latest 10000 of their group."
        assert run("sse_prune").strip() == text


async def test_expired_rows_that_cannot_be_deleted_do_not_keep_the_log_from_being_pruned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(housekeeping.tickets, "forget_old", mock.Mock(side_effect=DatabaseError))
    await apublish_many([("g", "n", str(n)) for n in range(10)])
    with override_settings(SSE_APP={"RETENTION_EVENTS": 1}):
        await housekeeping._clean()
    assert await StoredEvent.objects.acount() == 1


def test_a_new_epoch_is_given_to_all_groups_or_to_those_named() -> None:
    publish_many([("a", "n", "1"), ("b", "n", "1")])
    before = event_log().heads(["a", "b"])
    assert "1 group(s)" in run("sse_new_epoch", "a")
    middle = event_log().heads(["a", "b"])
    assert (middle["a"] != before["a"], middle["b"] == before["b"]) == (True, True)
    assert "2 group(s)" in run("sse_new_epoch")
    assert event_log().heads(["b"])["b"] != before["b"]
    assert "no events" in run("sse_new_epoch", "unknown")
    with pytest.raises(CommandError, match="'no group'"):
        run("sse_new_epoch", "no group")


def test_the_tag_carries_the_url_and_the_position() -> None:
    publish("orders", "n", "1")
    template = Template('{% load sse %}{% sse_stream "orders" "chat.a" after=position %}')
    position = cursor("orders")
    assert template.render(Context({"position": position})) == (
        '<sse-stream url="/events/?group=orders&amp;group=chat.a&amp;last_event_id='
        f'{position}"></sse-stream>'
    )
