"""What a save of a user costs the project, and of which saves streams hear."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sse_app.access.revocations import Revocation
from sse_app.eventlog import event_log
from sse_app.protocol.groups import CONTROL_GROUP

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ann() -> Any:
    User.objects.create_user("ann", password="old")
    return User.objects.get()


def told(ann: Any, **save: Any) -> tuple[int, list[str]]:
    """Save; return the number of queries, and the users of the stored revocations."""
    log = event_log()
    before = log.heads([CONTROL_GROUP])[CONTROL_GROUP]
    with CaptureQueriesContext(connection) as taken:
        ann.save(**save)
    events = log.since(CONTROL_GROUP, before, 100)
    return len(taken), [Revocation.of(event).user for event in events]


def test_a_save_that_changes_no_right_is_one_query(ann: Any) -> None:
    assert told(ann) == (1, [])
    ann.first_name, ann.email = "Ann", "ann@example.com"
    assert told(ann) == (1, [])
    ann.last_login = timezone.now()
    assert told(ann) == (1, [])
    assert told(ann, update_fields=["first_name", "last_login"]) == (1, [])
    assert told(ann, update_fields=["is_active"]) == (1, []), "it has not changed"
    ann.is_staff = True
    assert told(ann, update_fields=["first_name"]) == (1, []), "it was not saved"
    light = User.objects.only("first_name").get()
    light.first_name = "Anna"
    assert told(light) == (1, [])


@pytest.mark.parametrize("only", [None, ["is_active", "password", "is_staff"]])
@pytest.mark.parametrize(
    ("field", "value"), [("is_active", False), ("password", "x"), ("is_staff", True)]
)
def test_a_save_that_changes_a_right_is_told_once(
    ann: Any, field: str, value: Any, only: list[str] | None
) -> None:
    setattr(ann, field, value)
    assert told(ann, update_fields=only)[1] == [str(ann.pk)]
    assert told(ann, update_fields=only) == (1, [])


def test_a_change_that_was_rolled_back_is_told_when_it_is_saved_again(ann: Any) -> None:
    ann.is_active = False
    with transaction.atomic():
        ann.save()
        transaction.set_rollback(True)
    assert told(ann)[1] == [str(ann.pk)]


def test_a_user_that_was_not_read_may_have_changed_in_any_field(ann: Any) -> None:
    other = User(pk=ann.pk, username="ann")
    assert told(other)[1] == [str(ann.pk)]
    copied = pickle.loads(pickle.dumps(ann))  # As from a cache: its values were read.
    assert told(copied) == (1, [])


def test_a_new_user_and_its_first_change(ann: Any) -> None:
    bob = User(username="bob")
    assert told(bob) == (1, [])
    assert told(bob) == (1, [])
    bob.is_staff = True
    assert told(bob)[1] == [str(bob.pk)]
