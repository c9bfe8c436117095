"""Streams end when the right to them does, over real Daphne processes."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, Permission, User
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from sse_app.access import disconnect as revocation
from sse_app.access import readers, revocations
from sse_app.access.control_group import ControlSink
from sse_app.access.readers import Reader
from sse_app.eventlog import event_log
from sse_app.models import AccessToken
from sse_app.models import Revocation as RevocationRow
from sse_app.protocol.events import Event
from sse_app.protocol.groups import CONTROL_GROUP

from ..selection import first_then_slow
from ..support.servers import Daphne, StreamReader, eventually
from ..support.visitors import NEVER, POLICY, USER, Visitor, farewell, publish, run


@pytest.fixture
def site(make_daphne: Callable[..., Daphne]) -> Daphne:
    """A server that asks nobody again by itself, so that only a signal can tell."""
    return make_daphne(MAY_LISTEN=POLICY, REVALIDATE_INTERVAL=NEVER)


ENDS = {
    "deactivated": "user.is_active = False\nuser.save()",
    "deactivated by one field": "user.is_active = False\nuser.save(update_fields=['is_active'])",
    "a new password": "user.set_password('other')\nuser.save()",
    "deleted": "user.delete()",
    "disconnected": "from sse_app import disconnect\ndisconnect(user=user)",
    "disconnected by key": "from sse_app import disconnect\ndisconnect(user=user.pk)",
    "disconnected in a transaction": (
        "from django.db import transaction\nfrom sse_app import disconnect\n"
        "with transaction.atomic(): disconnect(user=user)"
    ),
}


@pytest.mark.parametrize("how", first_then_slow(ENDS, 3))
async def test_what_a_signal_tells_ends_the_users_streams_and_nobody_elses(
    site: Daphne, how: str
) -> None:
    ann, bob = [await Visitor(site, name).sign_in() for name in ("ann", "bob")]
    async with (
        ann.stream(f"group=user.{ann.pk}&group=clock") as hers,
        ann.stream(f"group=user.{ann.pk}") as too,
        bob.stream(f"group=user.{bob.pk}") as his,
    ):
        await run(site, USER.format(pk=ann.pk) + ENDS[how])
        await publish(site, f"user.{ann.pk}", "too late")
        await publish(site, f"user.{bob.pk}", "still")
        for stream in (hers, too):
            events = await stream.until_end()
            assert "too late" not in [event.data for event in events]
            assert (events[-1].name, events[-1].json()) == ("sse.close", {"reason": "auth"})
            assert stream.parser.retry == 3_600_000
        assert (await his.next()).data == "still"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "nobody",
    [
        AnonymousUser(),
        SimpleLazyObject(AnonymousUser),
        User(username="unsaved"),
        Group(pk=1, name="red"),
        AccessToken(pk=1),
        "",
        True,
        False,
        "x" * 65,
        SimpleNamespace(pk=None),
    ],
)
@pytest.mark.parametrize("group", [None, "orders"])
def test_what_is_no_user_is_not_disconnected_for_one(nobody: Any, group: str | None) -> None:
    with pytest.raises(ValueError, match=r"disconnect\(user="):
        revocation.disconnect(user=nobody, group=group)
    assert not RevocationRow.objects.exists()


@pytest.mark.django_db
def test_whoever_has_a_key_is_disconnected_by_it() -> None:
    ann = User.objects.create(username="ann")
    lazy = SimpleLazyObject(lambda: ann)
    key = uuid.uuid4()
    for user, said in ((ann, ann.pk), (lazy, ann.pk), (5, 5), ("token:5", "token:5"), (key, key)):
        RevocationRow.objects.all().delete()
        revocation.disconnect(user=user)
        assert [row.user for row in RevocationRow.objects.all()] == [str(said)]


@pytest.mark.django_db(transaction=True)
def test_a_change_of_groups_tells_of_the_users_it_is_about() -> None:
    users = User.objects.bulk_create(User(username=str(number)) for number in range(30))
    group = Group.objects.create(name="red")

    def told(change: Callable[..., Any], *args: Any) -> set[str]:
        before = event_log().heads([CONTROL_GROUP])[CONTROL_GROUP]
        change(*args)
        events = event_log().since(CONTROL_GROUP, before, 100)
        revoked = [revocations.Revocation.of(event) for event in events]
        assert all(revocation.review for revocation in revoked)
        return {revocation.user for revocation in revoked}

    some = {str(user.pk) for user in users[:3]}
    assert told(group.user_set.add, *users[:3]) == some
    assert told(group.user_set.remove, *users[:3]) == some
    assert told(users[0].groups.add, group) == {str(users[0].pk)}
    assert told(group.user_set.add, *users[1:]) == {""}, "too many to be named"
    assert told(group.user_set.clear) == {""}
    assert told(group.permissions.add, Permission.objects.first()) == {""}


async def test_logging_out_ends_the_streams_of_that_session_only(site: Daphne) -> None:
    here, there = [await Visitor(site, "ann").sign_in() for _ in range(2)]
    async with (
        here.stream(f"group=user.{here.pk}") as one,
        there.stream(f"group=user.{here.pk}") as two,
    ):
        await here.client.get("/test/logout/")
        await publish(site, f"user.{here.pk}", "after")
        assert await farewell(one) == ("auth", 3_600_000)
        assert (await two.next()).data == "after"


async def test_a_rolled_back_change_ends_nothing(site: Daphne) -> None:
    ann = await Visitor(site, "ann").sign_in()
    async with ann.stream(f"group=user.{ann.pk}") as stream:
        change = (
            "from django.db import transaction\n"
            "from sse_app import disconnect\n"
            "with transaction.atomic():\n"
            "    user.is_active = False; user.save(); disconnect(user=user)\n"
            "    transaction.set_rollback(True)\n"
        )
        await run(site, USER.format(pk=ann.pk) + change)
        await publish(site, f"user.{ann.pk}", "still")
        assert (await stream.next()).data == "still"


HARMLESS = {
    "a name": "user.first_name = 'Ann'\nuser.save()",
    "a login": "user.save(update_fields=['last_login'])",
    "another group": "Group.objects.get_or_create(name='blue')[0].user_set.add(user)",
    "rights of a group": (
        "from django.contrib.auth.models import Permission\n"
        "Group.objects.get(name='red').permissions.add(Permission.objects.first())"
    ),
}


@pytest.mark.parametrize("how", first_then_slow(HARMLESS, 2))
async def test_a_change_that_costs_no_right_costs_no_event(site: Daphne, how: str) -> None:
    ann = await Visitor(site, "ann").sign_in()
    await run(site, USER.format(pk=ann.pk) + "Group.objects.create(name='red').user_set.add(user)")
    async with ann.stream("group=team.red") as stream:
        for n in range(5):
            await publish(site, "team.red", f"before {n}")
            await run(site, USER.format(pk=ann.pk) + HARMLESS[how])
            await publish(site, "team.red", f"after {n}")
        events = await stream.take(10)
    assert [event.data for event in events] == [
        f"{when} {n}" for n in range(5) for when in ("before", "after")
    ]


LOST = {
    "from the user": "user.groups.remove(Group.objects.get(name='red'))",
    "from the group": "Group.objects.get(name='red').user_set.remove(user)",
    "all of the user": "user.groups.clear()",
    "all of the group": "Group.objects.get(name='red').user_set.clear()",
    "disconnect": "from sse_app import disconnect\ndisconnect(user=user, group='team.red')",
    "disconnect all": "from sse_app import disconnect\ndisconnect(group='team.red')",
}


@pytest.mark.parametrize("how", first_then_slow(LOST, 2))
async def test_a_lost_right_costs_that_group_and_the_rest_goes_on(site: Daphne, how: str) -> None:
    ann = await Visitor(site, "ann").sign_in()
    await run(site, USER.format(pk=ann.pk) + "Group.objects.create(name='red').user_set.add(user)")
    async with (
        ann.stream("group=team.red&group=orders.a") as both,
        ann.stream("group=team.red") as only,
    ):
        await publish(site, "team.red", "before")
        assert (await both.next()).data == "before"
        await run(site, USER.format(pk=ann.pk) + LOST[how])
        await publish(site, "team.red", "too late")
        await publish(site, "orders.a", "still")
        reset, event = await both.take(2)
        assert (reset.name, reset.json()) == (
            "sse.reset",
            {"group": "team.red", "reason": "unknown"},
        )
        assert event.data == "still"
        assert [e.data for e in await only.until_end()][:-1] == ["before"]


async def test_a_permission_that_is_lost(site: Daphne) -> None:
    ann = await Visitor(site, "ann").sign_in()
    permission = (
        "from django.contrib.auth.models import Permission\n"
        "orders = Permission.objects.filter(content_type__app_label='project')\n"
        "permission = orders.get(codename='view_order')\n"
    )
    await run(site, USER.format(pk=ann.pk) + permission + "user.user_permissions.add(permission)")
    async with ann.stream("group=perm.x") as stream:
        await run(
            site, USER.format(pk=ann.pk) + permission + "user.user_permissions.remove(permission)"
        )
        assert await farewell(stream) == ("auth", 3_600_000)
    assert await ann.status("/events/?group=perm.x") == 403


async def test_pages_rendered_before_a_disconnect_open_nothing_again(site: Daphne) -> None:
    ann = await Visitor(site, "ann").sign_in()
    stranger = Visitor(site, "")
    url, public = await ann.page("order.42"), await stranger.page("order.43")
    async with ann.stream(url) as stream:
        await run(site, USER.format(pk=ann.pk) + ENDS["disconnected"])
        assert await farewell(stream) == ("auth", 3_600_000)
    await run(site, "from sse_app import disconnect\ndisconnect(group='order.43')")
    for visitor, old in ((ann, url), (stranger, public)):
        async with visitor.client.stream("GET", old) as response:
            (over,) = await StreamReader(response).until_end()
        assert (over.name, over.json()) == ("sse.close", {"reason": "expired"})
    async with (
        ann.stream(await ann.page("order.42")),
        stranger.stream(await stranger.page("order.43")),
    ):
        pass


async def test_a_page_rendered_before_a_right_was_lost_opens_nothing_again(site: Daphne) -> None:
    ann = await Visitor(site, "ann").sign_in()
    await run(site, USER.format(pk=ann.pk) + "Group.objects.create(name='red').user_set.add(user)")
    url = await ann.page("order.42")
    async with ann.stream(url) as stream:
        await run(site, USER.format(pk=ann.pk) + LOST["from the user"])
        assert await farewell(stream) == ("auth", 3_600_000)
    assert await ann.status(url) == 403
    async with ann.stream(await ann.page("order.42")):
        pass


async def test_a_revoked_or_deleted_token_ends_its_streams(site: Daphne) -> None:
    for end in ("revoke_token(token)", "token.delete()"):
        text = await run(
            site,
            "from datetime import timedelta\nfrom sse_app.access.tokens import create_token\n"
            "result = create_token('reader', listen=['orders'], lifetime=timedelta(1))[1]",
        )
        program = Visitor(site, "")
        program.client.headers["Authorization"] = f"Bearer {text}"
        async with program.stream("group=orders") as stream:
            await run(
                site,
                "from sse_app.models import AccessToken\n"
                "from sse_app.access.tokens import revoke_token\n"
                f"token = AccessToken.objects.last()\n{end}",
            )
            assert await farewell(stream) == ("auth", 3_600_000)


# --- what no signal tells ---

SILENT = {
    "deactivated": "User.objects.filter(pk={pk}).update(is_active=False)",
    "a new password": "User.objects.filter(pk={pk}).update(password='x')",
    "no member": "User.groups.through.objects.filter(user_id={pk}).delete()",
    "no staff": "User.objects.filter(pk={pk}).update(is_staff=False)",
    "session deleted": "Session.objects.all().delete()",
    "session expired": "Session.objects.update(expire_date='2000-01-01T00:00Z')",
    "token expired": "AccessToken.objects.update(expires_at='2000-01-01T00:00Z')",
}


@pytest.mark.parametrize("how", first_then_slow(SILENT))
async def test_what_only_the_database_knows_is_found_by_asking(
    make_daphne: Callable[..., Daphne], how: str
) -> None:
    site = make_daphne(MAY_LISTEN=POLICY, REVALIDATE_INTERVAL=0.3)
    ann = await Visitor(site, "ann").sign_in()
    group = "staff" if how == "no staff" else "team.red"
    made = await run(
        site,
        USER.format(pk=ann.pk)
        + "Group.objects.create(name='red').user_set.add(user)\n"
        + "User.objects.filter(pk=user.pk).update(is_staff=True)\n"
        + "from datetime import timedelta\nfrom sse_app.access.tokens import create_token\n"
        + "result = create_token('reader', listen=['*'], lifetime=timedelta(1))[1]",
    )
    if how.startswith("token"):
        ann.client.cookies.clear()
        ann.client.headers["Authorization"] = f"Bearer {made}"
    async with ann.stream(f"group={group}") as stream:
        code = (
            "from django.contrib.auth.models import User\n"
            "from django.contrib.sessions.models import Session\n"
            "from sse_app.models import AccessToken\n"
        )
        await asyncio.to_thread(site.shell, code + SILENT[how].format(pk=ann.pk))
        assert await farewell(stream) == ("auth", 3_600_000)


@pytest.mark.slow
async def test_a_database_that_is_away_for_three_rounds_ends_what_it_can_not_answer_for(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(REVALIDATE_INTERVAL=0.2)
    ann, stranger = await Visitor(site, "ann").sign_in(), Visitor(site, "")
    rename = "from django.db import connection\nconnection.cursor().execute('ALTER TABLE {}')"
    async with ann.stream(f"group=user.{ann.pk}") as hers, stranger.stream("group=orders") as his:
        await asyncio.to_thread(site.shell, rename.format("auth_user RENAME TO away"))
        reason, retry = await farewell(hers)
        assert reason == "unverified"
        assert retry < 10_000
        await publish(site, "orders", "still")
        assert (await his.next()).data == "still"
    assert "(3 times in a row)" in site.text()
    await asyncio.to_thread(site.shell, rename.format("away RENAME TO auth_user"))
    async with ann.stream(f"group=user.{ann.pk}"):
        pass


async def test_while_the_policy_fails_a_stream_in_doubt_waits_and_is_asked_for_again(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(
        MAY_LISTEN="tests.policies.at_times", POLICY_SECONDS=NEVER, REVALIDATE_INTERVAL=NEVER
    )
    ann = await Visitor(site, "ann").sign_in()
    async with ann.stream("group=secret") as stream, ann.stream("group=orders") as other:
        await run(
            site,
            USER.format(pk=ann.pk)
            + "from tests import policies\npolicies.failing.set()\n"
            + "Group.objects.create(name='red').user_set.add(user)",
        )
        text = "The policy tests.policies.at_times failed"
        await asyncio.to_thread(eventually, lambda: text in site.text())
        for group in ("secret", "orders"):
            await publish(site, group, "meanwhile")
        assert (await other.next()).data == "meanwhile", "it is public, so nobody was asked"
        assert stream.parser.events[1:] == []
        answer = "policies.refusing.set()\npolicies.failing.clear()"
        await run(site, f"from tests import policies\n{answer}")
        assert [event.name for event in await stream.until_end()] == ["sse.close"]


# --- no leak, however it falls ---


async def test_a_logout_that_can_not_be_told_to_others_ends_the_streams_here(
    listening: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("on purpose")

    monkeypatch.setattr("sse_app.publishing.publish.publish_events", away)
    session = SimpleNamespace(session_key="key")
    # As Django calls it: the page that logs out must not fail.
    revocation._logged_out(None, SimpleNamespace(session=session), user="ann")
    assert listening.stream.close_reason == "auth"


def test_whom_to_disconnect_must_be_said() -> None:
    with pytest.raises(ValueError, match="a user, a group or both"):
        revocation.disconnect()


@pytest.mark.parametrize("fields", [{"user": 5}, {"review": "yes"}, {"no": "field"}, ["x"]])
def test_what_is_no_revocation_is_logged_and_skipped(
    fields: object, caplog: pytest.LogCaptureFixture
) -> None:
    ControlSink().show(Event.of_app(CONTROL_GROUP, revocations.CONTROL_EVENT, fields), "", b"")
    assert "Skipped a malformed control event" in caplog.text


async def test_a_stream_in_doubt_is_held_before_anything_is_asked(listening: Reader) -> None:
    readers.apply(revocations.Revocation(user="2", review=True))
    assert not listening.held
    readers.apply(revocations.Revocation(user="1", review=True))
    assert listening.held, "and not only in the loop's next turn"


async def test_a_revoked_stream_is_cut_before_the_loop_turns(listening: Reader) -> None:
    readers.apply(revocations.Revocation(user="2"))
    assert listening.stream.close_reason is None
    readers.apply(revocations.Revocation(user="1"))
    assert listening.stream.close_reason == "auth"


async def test_who_may_have_missed_revocations_looks_at_everybody(listening: Reader) -> None:
    ControlSink().reset(CONTROL_GROUP, "trimmed", "")
    assert listening.held


SAVED = "user.save()"
NO_STAFF = "user.is_staff = False\nuser.save()"
DISCONNECTED = "from sse_app import disconnect\ndisconnect(user=user)"


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (SAVED, ["sse.open", "n"]),  # As registering does it, just before the page is loaded.
        (NO_STAFF, ["sse.open", "sse.close"]),
        (DISCONNECTED, ["sse.busy"]),
    ],
)
@pytest.mark.parametrize("by", first_then_slow(["this process", "another process"]))
@pytest.mark.parametrize("others", first_then_slow(["none", "one that leaves"]))
async def test_a_stream_that_is_being_admitted_learns_of_what_happens_meanwhile(
    make_daphne: Callable[..., Daphne], what: str, told: list[str], by: str, others: str
) -> None:
    """What permitted the stream was true when the policy was asked, and not when it opens.

    Without other streams the process has no hub yet, or its hub ends while the policy is asked:
    no hub reads the control group in that moment.
    """
    options = {"MAY_LISTEN": "tests.policies.decided_and_held", "REVALIDATE_INTERVAL": NEVER}
    site = make_daphne(**options)
    elsewhere = site if by == "this process" else make_daphne(**options)
    ann = await Visitor(site, "ann").sign_in()
    user = USER.format(pk=ann.pk)
    await run(site, f"{user}user.is_staff = True\nuser.save()")

    async def listen() -> list[str]:
        async with ann.client.stream("GET", "/events/?group=staff") as response:
            stream = StreamReader(response)
            names = [(await stream.next()).name]
            await publish(site, "staff", "said")
            rest = [await stream.next()] if "n" in told else await stream.until_end()
            return names + [event.name for event in rest]

    if others == "none":
        listening = asyncio.create_task(listen())
    async with AsyncExitStack() as leaving:
        if others != "none":
            await leaving.enter_async_context(Visitor(site, "").stream("group=orders"))
            listening = asyncio.create_task(listen())
        await run(site, "from tests import policies\nassert policies.asked.wait(60)")
    await asyncio.to_thread(site.until_streams, 0)
    await run(elsewhere, user + what)
    await run(site, "from tests import policies\npolicies.gate.set()")
    assert await listening == told


RACE = """
import random, threading
from django.db import connection
from sse_app import disconnect; from sse_app import publish

# With the number of the stream: the next one may get what was published just before it opened.
over, stop, after = threading.Event(), threading.Event(), "after {seed}"

def speak():
    while not stop.is_set():
        publish("user.{pk}", "n", after if over.is_set() else "before", durable={durable})
    connection.close()

thread = threading.Thread(target=speak)
thread.start()
stop.wait(random.Random({seed}).uniform(0, 0.01))
disconnect(user={pk})
over.set()
for _ in range(3):
    publish("user.{pk}", "n", after, durable={durable})
stop.set()
thread.join()
"""


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
async def test_of_many_interleavings_none_shows_what_was_published_after_the_revocation(
    make_daphne: Callable[..., Daphne], count: int
) -> None:
    site = make_daphne(REVALIDATE_INTERVAL=NEVER, RETENTION_EVENTS=100)
    ann = await Visitor(site, "ann").sign_in()
    seen = 0
    for seed in range(count):
        async with ann.stream(f"group=user.{ann.pk}") as stream:
            code = RACE.format(pk=ann.pk, seed=seed, durable=seed % 2 == 0)
            _, events = await asyncio.gather(run(site, code), stream.until_end())
            told = [event.data for event in events if event.name == "n"]
            assert f"after {seed}" not in told
            seen += len(told)
    assert seen, "nothing was ever under way when it was revoked"


def all_ended(daphne: Daphne) -> dict[str, int]:
    """Return what `NOTE_CHECKS` noted once it has noted ten streams."""
    code = "import sys\nresult = sys.ended if len(sys.ended) == 10 else {}"
    ended: dict[str, int] = asyncio.run(run(daphne, code))
    return ended


#: Notes how many checks of the log had begun when a stream ended.
NOTE_CHECKS = """
import sys
from sse_app.delivery.healing import Healer
from sse_app.signals import stream_closed
real, sys.checks, sys.ended = Healer.check, 0, {}
async def check(self):
    sys.checks += 1
    await real(self)
def note(stream, **kwargs):
    sys.ended[stream.groups[0]] = sys.checks
Healer.check, sys.noted = check, note
stream_closed.connect(note)
"""


@pytest.mark.slow
async def test_another_process_follows_each_revocation_with_the_next_check_of_the_log(
    make_daphne: Callable[..., Daphne], valkey: str
) -> None:
    """The channel layer loses all of it: only the log tells. By default it is checked each 2 s."""
    layer = {"TEST_CHAOS_LAYER": json.dumps({"drop": 1.0})}
    environment = {"REDIS_URL": valkey, **layer}
    options = {"REVALIDATE_INTERVAL": NEVER, "STREAMS_PER_USER": None, "CHECK_INTERVAL": 4.0}
    here, there = [make_daphne(environment, **options) for _ in range(2)]
    visitors = [await Visitor(there, f"user{n}").sign_in() for n in range(10)]

    await run(there, NOTE_CHECKS)

    async def revoke(visitor: Visitor) -> tuple[str, int]:
        group = f"user.{visitor.pk}"
        async with visitor.stream(f"group={group}") as stream:
            await run(here, f"from sse_app import disconnect\ndisconnect(user={visitor.pk})")
            before = await run(there, "import sys\nresult = sys.checks")
            assert [event.name for event in await stream.until_end()] == ["sse.close"]
        return group, before

    told = await asyncio.gather(*map(revoke, visitors))
    ended = await asyncio.to_thread(eventually, lambda: all_ended(there))
    # A check may have been under way; the next one finds it, and the stream ends before another.
    assert max(ended[group] - before for group, before in told) <= 1


# --- one browser, several users ---


async def test_a_login_over_another_users_session_ends_her_streams_in_every_process(
    make_daphne: Callable[..., Daphne],
) -> None:
    here, there = [make_daphne(REVALIDATE_INTERVAL=NEVER) for _ in range(2)]
    ann = await Visitor(here, "ann").sign_in()
    own = f"{there.url}/events/?group=user.{ann.pk}"
    async with ann.stream(f"group=user.{ann.pk}") as one, ann.client.stream("GET", own) as answer:
        two = StreamReader(answer)
        assert (await two.next()).name == "sse.open"
        await ann.client.post("/test/login/", data={"name": "bob"})
        await publish(here, f"user.{ann.pk}", "after")
        for stream in (one, two):
            assert await farewell(stream) == ("auth", 3_600_000)


async def test_a_second_login_of_the_same_user_ends_nothing(site: Daphne) -> None:
    ann = await Visitor(site, "ann").sign_in()
    async with ann.stream(f"group=user.{ann.pk}") as stream:
        await ann.sign_in()
        await publish(site, f"user.{ann.pk}", "still")
        assert (await stream.next()).data == "still"


async def test_the_stream_of_a_stranger_who_signs_in_comes_back_at_once(site: Daphne) -> None:
    visitor, other = Visitor(site, "ann"), Visitor(site, "bob")
    for client in (visitor.client, other.client):
        code = "request.session['cart'] = 1; request.session.save(); "
        answer = await client.post(
            "/test/run/", data={"code": f"{code}result = request.session.session_key"}
        )
        client.cookies["sessionid"] = answer.json()["result"]
    async with visitor.stream("group=orders") as stream, other.stream("group=orders") as stays:
        await visitor.sign_in()
        reason, retry = await farewell(stream)
        await publish(site, "orders", "still")
        assert (await stays.next()).data == "still"
    assert reason == "session"
    assert 200 <= retry <= 500


ENDED = {**ENDS, "logged out": "", "logged in as another": ""}


@pytest.mark.parametrize(
    "how",
    first_then_slow(
        how for how in ENDED if how != "deleted" and not how.startswith("disconnected")
    ),
)
async def test_what_anybody_may_hear_comes_back_at_once_when_its_user_has_gone(
    site: Daphne, how: str
) -> None:
    ann = await Visitor(site, "ann").sign_in()
    labelled = f"group=clock&group=user.{ann.pk}&label=1"
    async with ann.stream("group=orders") as public, ann.stream(labelled) as shared:
        if how == "logged out":
            await ann.client.get("/test/logout/")
        elif how == "logged in as another":
            await ann.client.post("/test/login/", data={"name": "bob"})
        else:
            await run(site, USER.format(pk=ann.pk) + ENDS[how])
        reason, retry = await farewell(public)
        *_, last = await shared.until_end()
    assert (reason, 200 <= retry <= 500) == ("session", True)
    # The pages that share this one and listen to the clock only come back.
    assert last.json() == {"reason": "auth", "groups": [f"user.{ann.pk}"]}


async def test_who_is_disconnected_stays_away_from_public_groups_too(site: Daphne) -> None:
    ann = await Visitor(site, "ann").sign_in()
    async with ann.stream("group=orders") as public:
        await run(site, USER.format(pk=ann.pk) + ENDS["disconnected"])
        assert await farewell(public) == ("auth", 3_600_000)


@pytest.mark.parametrize(
    "request_", [None, HttpRequest(), SimpleNamespace(COOKIES={"sessionid": "x"})]
)
def test_a_login_without_a_session_ends_no_stream(
    request_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the apps for API tokens signal one."""
    told: list[Any] = []
    monkeypatch.setattr(readers, "apply", told.append)
    revocation._logged_in(None, request_)
    assert told == []
