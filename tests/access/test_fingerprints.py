"""What stands for a user's rights: the keys themselves, whatever they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext

from sse_app.access import readers
from sse_app.access.admission import Access
from sse_app.access.fingerprints import Fingerprint, read_fingerprints
from sse_app.access.limits import LIMITS, Slots
from sse_app.access.readers import Reader

from ..support.servers import Daphne
from ..support.visitors import NEVER, POLICY, USER, Visitor, farewell, publish, run


@pytest.fixture
def ann(db: None) -> User:
    return User.objects.create_user("ann")


def of(user: User) -> Fingerprint:
    return read_fingerprints([str(user.pk)])[str(user.pk)]


def test_other_groups_are_other_rights_whatever_their_sums(ann: User) -> None:
    """2 + 6 + 7 = 3 + 4 + 8, and so are the sums of their squares."""
    Group.objects.bulk_create(Group(pk=number, name=str(number)) for number in range(2, 9))
    seen = set()
    for groups in ([], [2, 6, 7], [3, 4, 8], [2, 3], [5], [2]):
        ann.groups.set(groups)
        seen.add(of(ann))
        assert of(ann) == of(ann)
    assert len(seen) == 6


def test_a_right_counts_by_what_gives_it(ann: User) -> None:
    first, second = Permission.objects.order_by("pk")[:2]
    group = Group.objects.create(pk=first.pk, name="red")
    seen = [of(ann)]
    ann.user_permissions.add(first)
    seen.append(of(ann))
    ann.user_permissions.clear()
    ann.groups.add(group)
    seen.append(of(ann))
    for permission in (first, second):
        group.permissions.set([permission])
        seen.append(of(ann))
    User.objects.update(is_staff=True)
    seen.append(of(ann))
    assert len({fingerprint.seal for fingerprint in seen}) == 6


def test_of_many_users_one_query_reads_what_each_has(db: None) -> None:
    users = User.objects.bulk_create(User(username=str(number)) for number in range(300))
    group = Group.objects.create(name="red")
    group.permissions.set(Permission.objects.all()[:20])
    group.user_set.set(users[:100])
    with CaptureQueriesContext(connection) as queries:
        found = read_fingerprints([str(user.pk) for user in User.objects.order_by("pk")])
    assert len(queries) == 2, "one of them lists the users"
    assert len(found) == 300
    assert len({fingerprint.seal for fingerprint in found.values()}) == 2


def test_a_key_that_can_be_no_key_hides_nobody_else(ann: User) -> None:
    keys = ["token:5", "", "x", "1.5", str(ann.pk), "999999"]
    assert list(read_fingerprints(keys)) == [str(ann.pk)]


# --- asked again ---


class LosingReader(Reader):
    """A reader with `lost`: the groups that its stream has lost."""

    lost: list[str]


def reader(asked: list[Any], permitted: Callable[[str], bool], **access: Any) -> LosingReader:
    """A reader of a stream that only notes what it loses."""

    async def policy(user: Any, groups: Any, request: Any) -> bool:
        asked.append(tuple(groups))
        return permitted(groups[0])

    async def lose(group: str) -> None:
        lost.append(group)

    lost: list[str] = []
    before = Fingerprint(True, "p", ("0",))
    made = Access(AnonymousUser(), ("a", "b"), policy, fingerprint=before, **access)
    stream = SimpleNamespace(groups=("a", "b"), lose=lose, at_end=lambda callback: None)
    found = LosingReader(stream, made, Slots(LIMITS))  # type: ignore[arg-type]
    found._lag_ends_at, found.lost = 0.0, lost
    return found


SAME = Fingerprint(True, "p", ("0",))
OTHER = Fingerprint(True, "p", ("1",))


async def test_what_did_not_change_is_not_asked() -> None:
    asked: list[Any] = []
    stream = reader(asked, lambda group: False)
    await stream.readmit(SAME)
    assert (asked, stream.lost) == ([], [])


async def test_what_a_signal_told_is_asked_though_the_fingerprint_is_the_same() -> None:
    asked: list[Any] = []
    stream = reader(asked, lambda group: group == "a")
    stream._signalled = True
    await stream.readmit(SAME)
    assert (sorted(asked), stream.lost) == ([("a",), ("b",)], ["b"])
    await stream.readmit(SAME)
    assert len(asked) == 2


async def test_what_a_page_granted_is_asked_only_once_the_rights_are_others() -> None:
    asked: list[Any] = []
    stream = reader(asked, lambda group: False, granted=frozenset({"a", "b"}))
    stream._signalled = True
    await stream.readmit(SAME)
    assert (asked, stream.lost) == ([], [])
    await stream.readmit(OTHER)
    assert (len(asked), sorted(stream.lost)) == (2, ["a", "b"])


async def test_a_policy_that_fails_is_asked_again_for_the_same() -> None:
    asked: list[Any] = []

    def permitted(group: str) -> bool:
        if len(asked) == 1:
            raise RuntimeError("on purpose")
        return False

    stream = reader(asked, permitted)
    stream._signalled = True
    with pytest.raises(RuntimeError):
        await stream.readmit(SAME)
    await stream.readmit(SAME)
    assert sorted(stream.lost) == ["a", "b"]


async def test_a_signal_during_a_policy_that_fails_is_followed_in_the_next_round() -> None:
    asked: list[Any] = []

    def permitted(group: str) -> bool:
        if len(asked) == 1:
            stream._signalled = True
            raise RuntimeError("on purpose")
        return False

    stream = reader(asked, permitted)
    stream._lag_ends_at = math.inf
    with pytest.raises(RuntimeError):
        await stream.readmit(SAME)
    stream._lag_ends_at = 0.0
    await stream.readmit(SAME)
    assert sorted(stream.lost) == ["a", "b"]


async def test_with_a_router_a_policy_is_asked_until_a_replica_can_not_lag(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(readers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    settings.DATABASE_ROUTERS = ["tests.support.replicas.Router"]
    asked: list[Any] = []
    stream = reader(asked, lambda group: True)
    counts = []
    for fingerprint, after in ((OTHER, 0), (OTHER, 1), (OTHER, 10), (OTHER, 10), (OTHER, 10)):
        now[0] += after
        await stream.readmit(fingerprint)
        counts.append(len(asked) // 2)
    assert counts == [1, 2, 3, 3, 3], "at once, in between, once after the lag, and no more"


TOLD = "user.last_name = 'blue'\nuser.save()"


async def test_over_a_real_server_what_the_fingerprint_does_not_show_is_asked_when_told(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(MAY_LISTEN="tests.policies.by_last_name", REVALIDATE_INTERVAL=NEVER)
    ann = await Visitor(site, "ann").sign_in()
    await run(site, USER.format(pk=ann.pk) + "user.last_name = 'red'\nuser.save()")
    async with (
        ann.stream("group=red") as stream,
        ann.stream(await ann.page("order.42")) as granted,
    ):
        await run(site, USER.format(pk=ann.pk) + TOLD)
        assert await farewell(stream) == ("auth", 3_600_000)
        await publish(site, "order.42", "still")
        assert (await granted.next()).data == "still", "no policy knows what a page granted"


NO_MEMBER = "User.groups.through.objects.using('{alias}').all().delete()"


async def test_over_a_real_server_a_replica_that_lags_keeps_no_right_alive(
    make_daphne: Callable[..., Daphne], tmp_path: Path
) -> None:
    engine = {"ENGINE": "django.db.backends.sqlite3"}
    replica = str(tmp_path / "replica.sqlite3")
    options = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}
    default = {**engine, "NAME": str(tmp_path / "db.sqlite3"), "OPTIONS": options}
    databases = {"default": default, "replica": {**engine, "NAME": replica}}
    django = {"DATABASES": databases, "DATABASE_ROUTERS": ["tests.support.replicas.Router"]}
    site = make_daphne(
        {"TEST_DJANGO": json.dumps(django)}, MAY_LISTEN=POLICY, REVALIDATE_INTERVAL=0.3
    )
    await run(site, "from sse_app.access import readers\nreaders.LAG_SECONDS = 3600")
    copy = (
        "from django.db import connection\n"
        f"connection.cursor().execute('VACUUM INTO %s', ['{replica}'])"
    )
    user = "from django.contrib.auth.models import Group, User\n"
    member = (
        f"{user}user = User.objects.using('default').get_or_create(username='ann')[0]\n"
        "group = Group.objects.using('default').get_or_create(name='red')[0]\n"
        "user.groups.through.objects.using('default').create(user=user, group=group)\n"
        "result = user.pk\n"
    )
    pk = await run(site, member)
    await run(site, copy)
    log_in = (
        "from django.contrib.auth import login\nfrom django.contrib.auth.models import User\n"
        f"login(request, User.objects.using('default').get(pk={pk}), "
        "'django.contrib.auth.backends.ModelBackend')"
    )
    ann = Visitor(site, "ann")
    await ann.client.post("/test/run/", data={"code": log_in})
    async with ann.stream("group=team.red") as before:
        await run(site, user + NO_MEMBER.format(alias="default"))
        async with ann.stream("group=team.red") as since:
            await publish(site, "team.red", "the replica permits it")
            assert (await since.next()).data == "the replica permits it"
            await run(site, user + NO_MEMBER.format(alias="replica"))
            for stream in (before, since):
                assert await farewell(stream) == ("auth", 3_600_000)
