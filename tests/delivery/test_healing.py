"""The streams survive what happens to Redis, and find a log that is another one than it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sse_app.protocol.cursors import Cursor

from ..selection import first_then_slow
from ..support.servers import Daphne, eventually
from ..support.valkeys import Valkey

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey that a test may kill; what it acknowledged, it keeps."""
    server = Valkey(tmp_path / "valkey", *DURABLE)
    yield server
    server.kill()


def log_in(redis: Valkey) -> dict[str, str]:
    return {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": redis.url}


async def published(daphne: Daphne, *texts: str) -> None:
    for text in texts:
        await asyncio.to_thread(daphne.publish, "orders", "n", text)


@pytest.mark.parametrize("log", first_then_slow(["database", "redis"]))
async def test_redis_is_killed_and_comes_back_while_a_stream_stays_open(
    make_daphne: Callable[..., Daphne], redis: Valkey, log: str
) -> None:
    redis.start()
    options = {"EVENT_LOG": log_in(redis)} if log == "redis" else {}
    daphne = make_daphne({"REDIS_URL": redis.url}, CHECK_INTERVAL=0.2, **options)
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        await published(daphne, "0", "1")
        for n in range(2, 6, 2):
            redis.kill()
            if log == "database":
                await published(daphne, str(n))
            redis.start()
            await published(daphne, *map(str, range(n + (log == "database"), n + 2)))
        assert [event.data for event in await stream.take(6)] == list("012345")


@pytest.mark.slow
async def test_a_flushed_redis_log_is_a_new_epoch(
    make_daphne: Callable[..., Daphne], redis: Valkey
) -> None:
    redis.start()
    options = {"EVENT_LOG": log_in(redis), "CHECK_INTERVAL": 0.2}
    daphne = make_daphne({"REDIS_URL": redis.url}, **options)
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        await published(daphne, "0", "1")
        _, last = await stream.take(2)
        with redis.client() as client:
            client.flushall()
        reset = await stream.next()
        assert (reset.name, reset.json()) == (
            "sse.reset",
            {"group": "orders", "reason": "epoch"},
        )
        await published(daphne, "2")
        assert (await stream.next()).data == "2"
    async with daphne.stream("group=orders", {"Last-Event-ID": last.id}) as stream:
        _, reset = await stream.take(2)
        assert reset.json()["reason"] == "epoch"
    async with daphne.stream("group=orders", {"Last-Event-ID": reset.id}) as stream:
        assert (await stream.next()).json()["recovered"] is True


@pytest.mark.slow
async def test_with_redis_down_at_the_start_streams_follow_the_log_and_catch_up(
    make_daphne: Callable[..., Daphne], redis: Valkey
) -> None:
    daphne = make_daphne({"REDIS_URL": redis.url}, CHECK_INTERVAL=0.2)
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        await published(daphne, "0")
        assert (await stream.next()).data == "0"
        redis.start()
        for _ in range(100):
            # Only the layer carries what is not durable: at some point it must be back.
            code = "publish('orders', 'passing', durable=False)"
            await asyncio.to_thread(daphne.shell, f"from sse_app import publish\n{code}")
            await published(daphne, "1")
            if (await stream.next()).name == "passing":
                break
        else:
            pytest.fail("the channel layer did not come back")


@pytest.mark.slow
async def test_with_a_redis_log_that_is_down_the_stream_is_busy_and_then_served(
    make_daphne: Callable[..., Daphne], redis: Valkey
) -> None:
    daphne = make_daphne({"REDIS_URL": redis.url}, EVENT_LOG=log_in(redis))
    async with daphne.stream("group=orders") as stream:
        (busy,) = await stream.until_end()
    assert (busy.name, busy.json()) == ("sse.busy", {"reason": "log"})
    redis.start()
    async with daphne.stream("group=orders") as stream:
        assert (await stream.next()).name == "sse.open"
        await published(daphne, "0")
        assert (await stream.next()).data == "0"


async def test_a_new_epoch_by_command_resets_the_open_streams(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(CHECK_INTERVAL=0.2)
    await published(daphne, "0")
    async with daphne.stream("group=orders&group=chat.a") as stream:
        await stream.next()
        assert "1 group(s)" in await asyncio.to_thread(daphne.manage, "sse_new_epoch", "orders")
        reset = await stream.next()
        assert reset.json() == {"group": "orders", "reason": "epoch"}
        await published(daphne, "1")
        assert (await stream.next()).data == "1"


async def test_the_server_prunes_by_itself_and_its_streams_notice_nothing(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(PRUNE_INTERVAL=0.1, RETENTION_EVENTS=10)
    async with daphne.stream("group=orders") as stream:
        opened = await stream.next()
        for n in range(30):
            await published(daphne, str(n))
        assert [event.data for event in await stream.take(30)] == [str(n) for n in range(30)]

        def left() -> int:
            code = "from sse_app.models import StoredEvent as S\nprint(S.objects.count())"
            return int(daphne.shell(code).split()[-1])

        await asyncio.to_thread(eventually, lambda: left() <= 10, "nothing was pruned")
        await published(daphne, "30")
        assert (await stream.next()).data == "30"
    async with daphne.stream("group=orders", {"Last-Event-ID": opened.id}) as stream:
        _, reset = await stream.take(2)
        assert reset.json()["reason"] == "trimmed"
    async with daphne.stream("group=orders&from=earliest") as stream:
        _, first = await stream.take(2)
        assert int(first.data) >= 20


def moved(id: str, seconds: int) -> str:
    """Return the id of an empty group as it was `seconds` earlier."""
    return id.replace(str(seen_at(id)), str(seen_at(id) - seconds))


async def test_who_saw_a_group_empty_goes_on_from_its_beginning_within_retention(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(RETENTION_SECONDS=3600)
    async with daphne.stream("group=orders") as stream:
        opened = await stream.next()
    await published(daphne, "0")
    for seconds, recovered in ((0, True), (3500, True), (3700, False)):
        headers = {"Last-Event-ID": moved(opened.id, seconds)}
        async with daphne.stream("group=orders", headers) as stream:
            again, first = await stream.take(2)
            assert again.json()["recovered"] is recovered
            if recovered:
                assert first.data == "0"
            else:
                # All of a log may have come and gone since.
                assert first.json() == {"group": "orders", "reason": "trimmed"}


async def test_a_cursor_of_an_empty_group_is_good_for_ever_if_events_are_kept_for_ever(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(RETENTION_SECONDS=None)
    async with daphne.stream("group=orders") as stream:
        opened = await stream.next()
    await published(daphne, "0")
    headers = {"Last-Event-ID": moved(opened.id, 20 * 365 * 24 * 3600)}
    async with daphne.stream("group=orders", headers) as stream:
        again, first = await stream.take(2)
        assert (again.json()["recovered"], first.data) == (True, "0")


def test_manage_py_names_a_bad_group(daphne: Any) -> None:
    with pytest.raises(AssertionError, match="'no group'"):
        daphne.manage("sse_new_epoch", "no group")


@pytest.mark.slow
async def test_who_saw_a_group_empty_in_another_log_is_told(
    make_daphne: Callable[..., Daphne], redis: Valkey
) -> None:
    """Its events may have come and gone with the other log."""
    redis.start()
    daphne = make_daphne({"REDIS_URL": redis.url}, EVENT_LOG=log_in(redis), CHECK_INTERVAL=0.2)
    async with daphne.stream("group=orders") as stream:
        opened = await stream.next()
    async with daphne.stream("group=orders", {"Last-Event-ID": opened.id}) as stream:
        assert (await stream.next()).json()["recovered"] is True
    await published(daphne, "of the other log")
    # A stream that is still open would hand its position in this log to the next one.
    await asyncio.to_thread(daphne.until_streams, 0)
    with redis.client() as client:
        client.flushall()
    async with daphne.stream("group=orders") as stream:
        again = await stream.next()
    await published(daphne, "1")
    async with daphne.stream("group=orders", {"Last-Event-ID": opened.id}) as stream:
        _, reset = await stream.take(2)
        assert (reset.name, reset.json()["reason"]) == ("sse.reset", "epoch")
    async with daphne.stream("group=orders", {"Last-Event-ID": again.id}) as stream:
        start, event = await stream.take(2)
        assert (start.json()["recovered"], event.data) == (True, "1")


def seen_at(id: str) -> int:
    cursor = Cursor.parse(id)
    assert cursor is not None
    seen = cursor.seen_empty_at("orders")
    assert seen is not None
    return seen
