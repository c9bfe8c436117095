"""The readers of a process: whom a revocation concerns, and what it costs to find them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Collection

import pytest
from django.contrib.auth.models import User

from sse_app.access import readers, revalidation
from sse_app.access.limits import LIMITS, Limit, Slots
from sse_app.access.readers import Reader
from sse_app.access.revalidation import Revalidator
from sse_app.access.revocations import Revocation
from sse_app.access.sessions import session_digest
from sse_app.delivery import subscriptions
from sse_app.delivery.hub import get_hub, running_hub

from ..support.patience import PATIENCE
from ..support.readers import new_reader

USERS = 30


@pytest.fixture
async def entered() -> AsyncIterator[list[Reader]]:
    """Two streams each of users 1 to 30, whose sessions are named `s1` to `s30`, and a stranger."""
    hub = get_hub()
    keys = [key for key in range(1, USERS + 1) for _ in range(2)]
    found = [new_reader(hub, User(pk=key), session_key=f"s{key}") for key in keys]
    found.append(new_reader(hub, groups=("other",)))
    for reader in found:
        assert readers.enter(reader, readers.revocation_count())
    yield found
    for reader in found:
        readers.leave(reader)
    await hub.close()


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Reader]:
    """The readers of which was asked whether a revocation concerns them."""
    found: list[Reader] = []
    real = Reader.is_concerned

    def is_concerned(self: Reader, revocation: Revocation) -> bool:
        found.append(self)
        return real(self, revocation)

    monkeypatch.setattr(Reader, "is_concerned", is_concerned)
    return found


async def test_a_revocation_looks_only_at_the_readers_that_it_names(
    entered: list[Reader], looked_at: list[Reader]
) -> None:
    for revocation in (
        Revocation(user="3", review=True),
        Revocation(user="3", group="g"),
        Revocation(session=session_digest("s3")),
        Revocation(user="3"),
    ):
        readers.apply(revocation)
        assert {reader.user_key for reader in looked_at} == {"3"}, revocation
        assert len(looked_at) == 2
        looked_at.clear()
    for revocation in (Revocation(stream=entered[-1].id), Revocation(group="other")):
        readers.apply(revocation)
        assert looked_at == [entered[-1]]
        looked_at.clear()
    for nobody in (Revocation(user="31"), Revocation(session="x"), Revocation(stream="x")):
        readers.apply(nobody)
    assert looked_at == []
    ended = {reader.user_key for reader in entered if reader.stream.close_reason is not None}
    assert ended == {"3", ""}


async def test_a_revocation_that_names_nobody_concerns_all_that_it_can(
    entered: list[Reader],
) -> None:
    assert readers.concerned(Revocation(group="other")) == entered[-1:]
    assert {*readers.concerned(Revocation(group="g"))} == {*entered[:-1]}
    assert readers.concerned(Revocation(review=True)) == entered[:-1], "no stranger has rights"
    assert readers.concerned(Revocation()) == entered


async def test_a_reader_in_doubt_is_asked_for_and_nobody_else_is_looked_at(
    entered: list[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    rounds: asyncio.Queue[Collection[Reader]] = asyncio.Queue()

    async def round(due: Collection[Reader]) -> bool:
        for reader in due:
            reader.release(reader.held)
        rounds.put_nowait(due)
        return True

    def all_readers() -> list[Reader]:
        raise AssertionError("all readers are looked at")

    revalidator = Revalidator()
    monkeypatch.setattr(revalidator, "round", round)
    monkeypatch.setattr(revalidation, "readers", all_readers)
    running = asyncio.create_task(revalidator.run())
    async with asyncio.timeout(PATIENCE):
        while readers._on_hold.get(loop) != revalidator._wake.set:  # noqa: ASYNC110
            await asyncio.sleep(0)  # The hub has a revalidator, too, which began before.
        for key in ("5", "7"):
            readers.apply(Revocation(user=key, review=True))
            assert {reader.user_key for reader in await rounds.get()} == {key}
    running.cancel()
    await asyncio.wait([running])
    readers.apply(Revocation(user="9", review=True))
    assert {reader.user_key for reader in readers.held_readers(loop)} == {"9"}, "for the next run"


async def test_of_a_reader_that_left_nothing_is_kept(entered: list[Reader]) -> None:
    readers.apply(Revocation(review=True))
    for reader in entered:
        await reader.stream.end()
        reader.revoke(Revocation(review=True))  # As `apply()` in a thread may just have found it.
    assert readers.readers() == []
    assert not readers._by_user
    assert not readers._by_session
    assert not readers._by_group
    assert not readers._held


async def test_who_entered_too_late_to_be_told_of_everything_is_not_opened() -> None:
    hub, since = get_hub(), readers.revocation_count()
    for _ in range(readers.RECENT):
        readers.apply(Revocation(user="1"))
    late, later = new_reader(hub, User(pk=2)), new_reader(hub, User(pk=2))
    assert readers.enter(late, since)
    readers.apply(Revocation(user="1"))
    assert not readers.enter(later, since)
    for reader in (late, later):
        readers.leave(reader)
    await hub.close()


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
@pytest.mark.parametrize("failing", ["subscription.leave_cohort", "_transport.finish"])
async def test_a_stream_that_fails_to_end_releases_its_slots_once(
    failing: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise error("on purpose")

    limit, released = Limit("user", "user:1", 1), list[str]()
    slots = Slots(LIMITS)
    await slots.add([limit])
    made = new_reader(get_hub())
    reader = Reader(made.stream, made.access, slots)
    reader.stream.at_end(lambda: released.append(reader.id))
    assert readers.enter(reader, readers.revocation_count())
    owner, name = failing.split(".")
    monkeypatch.setattr(getattr(reader.stream, owner), name, fail)
    reader.stream._opened = True
    monkeypatch.setattr(reader.stream, "_write", lambda chunk: None)
    with pytest.raises(error):
        await reader.stream.end()
    with pytest.raises(error):
        await reader.stream.end()
    assert released == [reader.id]
    assert limit.key not in LIMITS.counts
    assert readers.readers() == []
    assert running_hub() is None


async def test_the_first_reason_and_its_groups_count(entered: list[Reader]) -> None:
    stream = entered[0].stream
    readers.apply(Revocation(user="1"))
    readers.apply(Revocation(session=session_digest("s1")))
    assert (stream.close_reason, stream.subscription.closed_groups) == ("auth", ()), (
        "not only of private ones"
    )


async def test_streams_muted_by_two_threads_keep_a_reason_with_its_own_groups(
    entered: list[Reader],
) -> None:
    stream = entered[0].stream
    with subscriptions._lock:
        threads = [
            threading.Thread(target=stream.mute, args=(reason, (reason,)))
            for reason in ("auth", "expired")
        ]
        for thread in threads:
            thread.start()
            thread.join(0.2)
            assert thread.is_alive(), "the thread that decides does not exclude the other one"
        assert (stream.close_reason, stream.subscription.closed_groups) == (None, ())
    for thread in threads:
        thread.join()
    assert stream.subscription.closed_groups == (stream.close_reason,)


async def test_a_forked_child_has_no_readers_and_a_free_lock(entered: list[Reader]) -> None:
    with readers._lock:
        pid = os.fork()
        if pid == 0:
            os._exit(len(readers.readers()) or readers._lock.locked())
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(readers.readers()) == len(entered)
