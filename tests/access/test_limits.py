"""How many streams at once: in this process, and over all that share a Redis."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from sse_app.access import limits_redis
from sse_app.access.addresses import Address, client_address
from sse_app.access.limits import Limit, LimitReached, Limits, Slots
from sse_app.access.limits_redis import SharedCounts, shared_counts
from sse_app.eventlog import RedisEventLog

from ..support.patience import PATIENCE
from ..support.valkeys import Valkey, free_port

ANN = SimpleNamespace(pk=1, is_authenticated=True)
BOB = SimpleNamespace(pk=2, is_authenticated=True)
NOBODY = SimpleNamespace(pk=None, is_authenticated=False)
HOME = Address("8.8.8.8", {"8.8.8.8": 1}, True)
ELSEWHERE = Address("9.9.9.9", {"9.9.9.9": 1}, True)
LOOPBACK = Address("127.0.0.1", {"127.0.0.1": 1}, False)
NONE = dict.fromkeys(
    f"STREAMS_PER_{what}" for what in ("USER", "SESSION", "ADDRESS", "ANONYMOUS_ADDRESS", "PROCESS")
)


@pytest.fixture
def limit(settings: Any) -> Callable[..., None]:
    """Set these limits and no others: `limit(USER=2)`."""

    def use(**most: int) -> None:
        given = {f"STREAMS_PER_{what}": number for what, number in most.items()}
        settings.SSE_APP = {**NONE, **given}

    return use


async def admit(
    limits: Limits,
    address: Address = LOOPBACK,
    session: str | None = None,
    user: Any = NOBODY,
) -> Slots:
    slots = await limits.admit(address, session)
    await slots.identify(user)
    return slots


async def reason(limits: Limits, *given: Any, **named: Any) -> str | None:
    """Return why the request is refused; None, and nothing held, if it is not."""
    before = limits.counts
    try:
        (await admit(limits, *given, **named)).release()
    except LimitReached as full:
        return full.reason
    finally:
        assert limits.counts == before
    return None


# --- in one process ---


async def test_each_limit_refuses_what_is_one_too_many_and_nothing_else(
    limit: Callable[..., None],
) -> None:
    cases: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("PROCESS", "process", {}, {}),
        ("ADDRESS", "address", {"address": HOME, "session": "a"}, {"address": ELSEWHERE}),
        ("ANONYMOUS_ADDRESS", "address", {"address": HOME}, {"address": ELSEWHERE}),
        ("SESSION", "session", {"session": "a"}, {"session": "b"}),
        ("USER", "user", {"user": ANN}, {"user": BOB}),
    ]
    for what, why, full, other in cases:
        limit(**{what: 2})
        limits = Limits()
        held = [await admit(limits, **full) for _ in range(2)]
        assert await reason(limits, **full) == why
        if other:
            assert await reason(limits, **other) is None
        held.pop().release()
        assert await reason(limits, **full) is None


async def test_requests_without_a_session_have_an_address_limit_of_their_own(
    limit: Callable[..., None],
) -> None:
    limit(ADDRESS=2, ANONYMOUS_ADDRESS=1)
    limits = Limits()
    await admit(limits, HOME)
    assert await reason(limits, HOME) == "address"
    assert await reason(limits, HOME, "") == "address"
    await admit(limits, HOME, "a")
    await admit(limits, HOME, "b")
    assert await reason(limits, HOME, "c") == "address"


async def test_an_address_that_may_be_a_proxys_is_not_limited(limit: Callable[..., None]) -> None:
    limit(ADDRESS=1, ANONYMOUS_ADDRESS=1)
    limits = Limits()
    for session in (None, "a", None, "b"):
        await admit(limits, LOOPBACK, session)


@pytest.mark.parametrize("session", [True, False])
async def test_a_customers_many_ipv6_networks_have_four_times_the_limit(
    limit: Callable[..., None], session: bool
) -> None:
    limit(ADDRESS=2, ANONYMOUS_ADDRESS=2)
    limits = Limits()

    async def refused(network: str) -> str | None:
        address = client_address({"client": (network + "::1", 1)})
        try:
            await admit(limits, address, uuid.uuid4().hex if session else None)
        except LimitReached as full:
            return full.reason
        return None

    assert [await refused("2a00:1450:0:0") for _ in range(3)] == [None, None, "address"]
    networks = [f"2a00:1450:0:{n:x}" for n in range(1, 256)]
    assert [await refused(network) for network in networks].count(None) == 6
    assert await refused("2a00:1450:0:100") is None


async def test_none_switches_a_limit_off(limit: Callable[..., None]) -> None:
    limit()
    limits = Limits()
    for _ in range(300):
        await admit(limits, HOME, "a", ANN)
    assert limits.counts == {}


async def test_the_limits_of_the_design_are_the_defaults(settings: Any) -> None:
    settings.SSE_APP = {}
    limits = Limits()
    for most, why, given in (
        (10, "session", (LOOPBACK, "a")),
        (20, "user", (LOOPBACK, None, ANN)),
        (100, "address", (HOME,)),
    ):
        held = [await admit(limits, *given) for _ in range(most)]
        assert await reason(limits, *given) == why
        for slots in held:
            slots.release()


async def test_a_refused_request_holds_nothing(limit: Callable[..., None]) -> None:
    limit(PROCESS=9, ADDRESS=9, SESSION=9, USER=1)
    limits = Limits()
    held = await admit(limits, HOME, "a", ANN)
    before = limits.counts
    slots = await limits.admit(HOME, "a")
    with pytest.raises(LimitReached, match="user"):
        await slots.identify(ANN)
    assert limits.counts == before
    slots.release()
    assert limits.counts == before
    held.release()
    assert limits.counts == {}


async def test_what_is_held_is_given_back_once(limit: Callable[..., None]) -> None:
    limit(PROCESS=9, ADDRESS=9, SESSION=9, USER=9)
    limits = Limits()
    held = await admit(limits, HOME, "a", ANN)
    with await admit(limits, HOME, "a", ANN) as slots:
        assert set(limits.counts.values()) == {2}
    slots.release()
    slots.release()
    assert set(limits.counts.values()) == {1}
    held.release()
    assert limits.counts == {}


async def test_what_fails_half_way_is_given_back(limit: Callable[..., None]) -> None:
    limit(PROCESS=9, USER=9)
    limits = Limits()
    with pytest.raises(RuntimeError, match="on purpose"), await limits.admit(HOME, "a"):
        raise RuntimeError("on purpose")
    assert limits.counts == {}


async def test_the_key_of_a_session_is_kept_nowhere(limit: Callable[..., None]) -> None:
    limit(SESSION=9)
    limits = Limits()
    await admit(limits, HOME, "secret")
    assert limits.counts
    assert not any("secret" in key for key in limits.counts)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_threads_with_loops_of_their_own_count_together() -> None:
    limits = Limits()
    one = [Limit("process", "process", 1)]
    failed: list[Any] = []

    def come_and_go() -> None:
        for _ in range(10_000):
            try:
                limits.take(one)
            except LimitReached:
                continue
            if limits.counts != {"process": 1}:
                failed.append(limits.counts)
            limits.release(one)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert limits.counts == {}


async def test_a_forked_child_begins_without_its_parents_streams(
    limit: Callable[..., None],
) -> None:
    from sse_app.access.limits import LIMITS

    limit(PROCESS=9)
    with await LIMITS.admit(LOOPBACK, None):
        child = os.fork()
        if child == 0:
            os._exit(len(LIMITS.counts))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert LIMITS.counts == {"process": 1}


# --- over all processes ---

THREE = {"user:1": 3}


class Members:
    """Processes, as far as Redis can tell: each with counts and a connection of its own."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.log = RedisEventLog(url, prefix=f"test.{uuid.uuid4().hex}", options=options)
        self.made: list[SharedCounts] = []
        self.connected = 0

    def __call__(self) -> SharedCounts:
        self.made.append(SharedCounts(self.log.location()[0], self._connect))
        return self.made[-1]

    def _connect(self) -> Any:
        self.connected += 1
        return self.log.location()[1]()

    def stored(self) -> dict[str, Any]:
        """Return everything there is in Redis of these members."""
        with closing(redis.Redis.from_url(self.url, decode_responses=True)) as client:
            found = {}
            for key in client.scan_iter(match=f"{{{self.log.location()[0]}.limits}}:*"):
                zset = client.type(key) == "zset"
                found[key.partition("}:")[2]] = (
                    dict(client.zrange(key, 0, -1, withscores=True))
                    if zset
                    else client.hgetall(key)
                )
            return found

    def counted(self) -> dict[str, int]:
        """Return how many slots the members with a lease have under each key."""
        stored = self.stored()
        living = stored.pop("leases", {})
        counts = {
            key: sum(int(count) for member, count in held.items() if member in living)
            for key, held in stored.items()
        }
        return {key: count for key, count in counts.items() if count}

    async def until_quiet(self) -> None:
        """Wait for every member that holds nothing to have said so."""
        for made in self.made:
            while made._task is not None and not made._held:
                await asyncio.wait([made._task])


async def until(check: Callable[[], bool]) -> None:
    """Return when `check` is true."""
    async with asyncio.timeout(PATIENCE):
        while not check():  # noqa: ASYNC110 - what is waited for is another process's
            await asyncio.sleep(0.01)


async def takes(counts: SharedCounts, limits: Mapping[str, int]) -> None:
    """Return when a place has become free and was taken."""
    async with asyncio.timeout(PATIENCE):
        while await counts.take(limits) is not None:  # noqa: ASYNC110 - it is Redis's to say
            await asyncio.sleep(0.01)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for Redis as long as it takes: on a loaded machine it may answer late."""
    monkeypatch.setattr(limits_redis, "TIMEOUT_SECONDS", PATIENCE)


@pytest.fixture
async def members(valkey: str, patient: None) -> AsyncIterator[Members]:
    made = Members(valkey)
    yield made
    for counts in made.made:
        await silence(counts)


async def silence(counts: SharedCounts) -> None:
    """End a member as `kill -9` does: without a word."""
    task = counts._task
    if task is not None:
        task.cancel()
        await asyncio.wait([task])
    client, counts._client = counts._client, None
    if client is not None:
        await client.aclose()


async def test_all_processes_count_together(members: Members) -> None:
    one, two = members(), members()
    assert await one.take(THREE) is None
    assert await two.take(THREE) is None
    assert await two.take(THREE) is None
    for counts in (one, two):
        assert await counts.take(THREE) == "user:1"
        assert await counts.take({"user:2": 1, **THREE}) == "user:1"
    assert await one.take({"user:2": 1}) is None  # A refusal took nothing.
    one.release(THREE.keys())
    await takes(two, THREE)


async def test_of_many_at_once_as_many_are_taken_as_there_are_places(members: Members) -> None:
    counted = [members() for _ in range(3)]
    asked = [
        counts.take({"user:1": 50, "address:a": 1000}) for counts in counted for _ in range(40)
    ]
    full = await asyncio.gather(*asked)
    assert full.count(None) == 50
    assert full.count("user:1") == 70
    assert members.counted() == {"user:1": 50, "address:a": 50}


async def test_when_everybody_comes_at_once_no_round_trip_is_long(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_redis, "RENEW_SECONDS", 3600)
    counts = members()
    real, lengths = counts._send, []

    async def send(commands: Any) -> list[Any]:
        lengths.append(len(commands))
        return await real(commands)

    monkeypatch.setattr(counts, "_send", send)
    async with asyncio.timeout(PATIENCE):
        full = await asyncio.gather(*(counts.take({"user:1": 1200}) for _ in range(1300)))
    assert full.count("user:1") == 100
    assert max(lengths) <= limits_redis.REQUESTS_PER_BATCH + 1


async def test_nothing_is_left_in_redis_when_all_is_given_back(members: Members) -> None:
    one, two = members(), members()
    for counts in (one, two, two):
        await counts.take({"user:1": 9, "session:a": 9})
    assert set(members.stored()) == {"leases", "user:1", "session:a"}
    for counts in (one, two, two):
        counts.release(["user:1", "session:a"])
    await members.until_quiet()
    assert members.stored() == {}
    assert one._client is two._client is None
    assert await one.take(THREE) is None


async def test_a_count_that_nobody_ends_expires_after_the_longest_life_of_a_stream(
    members: Members, settings: Any
) -> None:
    settings.SSE_APP = {"STREAM_LIFE": 50, "PUBLIC_STREAM_LIFE": 100}
    counts = members()
    for _ in range(2):
        await counts.take({"user:1": 9})
    with closing(redis.Redis.from_url(members.url)) as client:
        key = f"{{{members.log.location()[0]}.limits}}:user:1"
        assert 120_000 < int(client.pttl(key)) <= 200_000
        client.persist(key)
        counts.release(["user:1"])
        await until(lambda: members.counted() == {"user:1": 1})
        assert 120_000 < int(client.pttl(key)) <= 200_000


async def test_a_request_that_is_cancelled_while_it_waits_holds_nothing(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Redis is asked, and while it answers."""
    counts = members()
    await counts.take({"user:2": 9})
    real = counts._send
    asking: list[asyncio.Task[Any]] = []

    async def send(commands: Any) -> list[Any]:
        answers = await real(commands)
        for task in asking:
            task.cancel()
        return answers

    monkeypatch.setattr(counts, "_send", send)
    asking.append(asyncio.create_task(counts.take({"user:1": 1})))
    asking.append(asyncio.create_task(counts.take({"user:2": 1})))  # It will be full.
    asking.append(asyncio.create_task(counts.take({"user:3": 1})))
    await asyncio.sleep(0)
    asking[2].cancel()
    await asyncio.wait(asking)
    assert all(task.cancelled() for task in asking)
    await until(lambda: members.counted() == {"user:2": 1} and not counts._unreported)
    assert counts._held == {"user:2": 1}


async def test_a_request_that_is_cancelled_before_it_hears_the_answer_holds_nothing(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = members()
    await counts.take({"user:2": 9})
    asking = asyncio.create_task(counts.take({"user:1": 1}))
    real = counts._answer

    def answer(ask: Any, full: int) -> None:
        real(ask, full)
        if "user:1" in ask.limits:
            asking.cancel()

    monkeypatch.setattr(counts, "_answer", answer)
    await asyncio.wait([asking])
    assert asking.cancelled()
    await until(lambda: "user:1" not in members.stored())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_redis, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(limits_redis, "RENEW_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
async def test_a_killed_process_is_not_counted_after_its_lease(members: Members) -> None:
    killed, living = members(), members()
    for _ in range(3):
        await killed.take(THREE)
    assert await living.take(THREE) == "user:1"
    await silence(killed)
    await takes(living, THREE)
    assert len(members.stored()["user:1"]) == 1
    assert len(members.stored()["leases"]) == 1


@pytest.mark.usefixtures("quick")
async def test_a_cancellation_that_the_client_of_redis_swallows_ends_the_task_all_the_same(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = members()
    await counts.take(THREE)
    send, sending = counts._send, asyncio.Event()

    async def swallow(commands: Any) -> list[Any]:
        sending.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await send(commands)

    monkeypatch.setattr(counts, "_send", swallow)
    await sending.wait()
    async with asyncio.timeout(PATIENCE):
        await silence(counts)


@pytest.mark.usefixtures("quick")
async def test_a_living_process_is_counted_for_as_long_as_it_lives(members: Members) -> None:
    holding, asking = members(), members()
    await holding.take({"user:1": 1})
    first = members.stored()["leases"]
    await until(lambda: min(members.stored()["leases"].values()) > max(first.values()) + 600)
    assert await asking.take({"user:1": 1}) == "user:1"


@pytest.mark.usefixtures("quick")
async def test_a_process_that_stood_still_for_longer_than_its_lease_is_counted_again(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, other = members(), members()
    for _ in range(3):
        await stopped.take(THREE)
    with monkeypatch.context() as still:
        still.setattr(limits_redis, "RENEW_SECONDS", 3600)
        stopped._wake.set()
        await until(lambda: "leases" not in members.stored())
    assert await stopped.take({"user:2": 9}) is None
    assert await other.take(THREE) == "user:1"


async def test_a_redis_that_lost_everything_is_told_again_at_once(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_redis, "RENEW_SECONDS", 3600)
    counts, other = members(), members()
    for _ in range(3):
        await counts.take(THREE)
    with closing(redis.Redis.from_url(members.url)) as client:
        client.delete(*client.scan_iter(match=f"{{{members.log.location()[0]}.limits}}:*"))
    await takes(counts, {"user:2": 9})
    assert await other.take(THREE) == "user:1"
    assert sorted(members.stored()) == ["leases", "user:1", "user:2"]


@pytest.mark.usefixtures("patient")
async def test_on_a_cluster_too(valkey_cluster: str) -> None:
    log = RedisEventLog(valkey_cluster, prefix=f"test.{uuid.uuid4().hex}", cluster=True)
    one, two = SharedCounts(*log.location()), SharedCounts(*log.location())
    assert await one.take({"user:1": 2, "session:a": 9, "address:b": 9}) is None
    assert await two.take(THREE) is None
    assert await one.take({"user:1": 2}) == "user:1"
    for counts in (one, two):
        assert not counts.alone
        await silence(counts)


# --- Redis away ---


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey").start()
    yield server
    server.kill()


@pytest.mark.usefixtures("quick")
async def test_without_redis_a_process_counts_alone_says_so_once_and_tells_redis_later(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    members = Members(server.url)
    counts = members()
    assert await counts.take(THREE) is None
    server.kill()
    for _ in range(4):
        assert await counts.take(THREE) is None
    counts.release(THREE.keys())
    tried = members.connected
    await until(lambda: members.connected >= tried + 3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    server.start()
    await until(lambda: not counts.alone)
    assert await counts.take({"user:1": 9}) is None
    assert members.counted() == {"user:1": 5}
    for _ in range(5):
        counts.release(THREE.keys())
    await members.until_quiet()
    assert members.stored() == {}


async def test_without_redis_and_with_nothing_held_nothing_is_tried_until_somebody_comes(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kill()
    members = Members(server.url)
    counts = members()
    monkeypatch.setattr(limits_redis, "RENEW_SECONDS", 3600)
    for _ in range(3):
        assert await counts.take(THREE) is None
        counts.release(THREE.keys())
        await members.until_quiet()
        assert counts._task is None
    assert members.connected == 1
    server.start()
    counts._retry_at = time.monotonic()
    assert await counts.take(THREE) is None
    await until(lambda: not counts.alone)
    assert members.counted() == {"user:1": 1}
    await silence(counts)


async def test_what_comes_and_goes_while_redis_is_told_again_is_told_too(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = members()
    await counts.take({"user:1": 9, "user:2": 9, "user:3": 9})
    await counts._lose_redis(ConnectionError("on purpose"), [])
    counts._retry_at = time.monotonic()
    real = counts._send

    async def send(commands: Any) -> list[Any]:
        answers = await real(commands)
        if counts.alone:  # It has said what it held, and does not know yet that it was heard.
            counts.release(["user:2"])
            assert await counts.take({"user:3": 9}) is None
        return answers

    monkeypatch.setattr(counts, "_send", send)
    counts._wake.set()
    await until(lambda: not counts.alone and not counts._unreported)
    assert await counts.take({"user:4": 9}) is None
    assert members.counted() == {"user:1": 1, "user:3": 2, "user:4": 1}


async def test_a_redis_that_hangs_holds_nobody_up_and_what_it_does_late_counts_nothing(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_redis, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(limits_redis, "LEASE_SECONDS", 3600)
    members = Members(server.url, socket_timeout=None)
    counts, other = members(), members()
    assert await counts.take(THREE) is None
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*(counts.take(THREE) for _ in range(10))) == [None] * 10
    for _ in range(10):
        counts.release(THREE.keys())
    server.process.send_signal(signal.SIGCONT)
    await until(lambda: not counts.alone)
    assert await other.take(THREE) is None
    assert await other.take(THREE) is None
    assert await other.take(THREE) == "user:1"
    await silence(counts)
    await silence(other)


async def test_who_comes_while_others_wait_for_a_redis_that_hangs_waits_no_longer_than_they(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits_redis, "RENEW_SECONDS", 3600)
    counts = Members(server.url)()
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    first = asyncio.create_task(counts.take(THREE))
    await until(lambda: counts._client is not None)
    async with asyncio.timeout(PATIENCE):
        assert await counts.take(THREE) is None
        assert await first is None
    await silence(counts)


async def test_a_connection_that_breaks_is_no_reason_to_ask_twice() -> None:
    """What was asked may have been done: a place would be taken twice."""
    connections = 0

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1)
        writer.close()

    async with await asyncio.start_server(break_off, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        host = {"address": f"redis://127.0.0.1:{port}", "retry_on_timeout": True}
        connect = partial(limits_redis._connect, [host])
        counts = SharedCounts("test", connect)
        assert await counts.take(THREE) is None
        assert counts.alone
        assert connections == 1
        await silence(counts)


async def test_a_redis_that_refuses_is_away(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(server.client()) as client:
        client.config_set("maxmemory", "1")
    counts = Members(server.url)()
    assert await counts.take(THREE) is None
    assert counts.alone
    assert "OutOfMemory" in caplog.text
    await silence(counts)


# --- where Redis is ---

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
CORE = "channels_redis.core.RedisChannelLayer"


@pytest.fixture
def use(settings: Any) -> Callable[..., None]:
    """Use a channel layer and a log, with a limit of one stream per session and user."""

    def use(backend: str, config: Mapping[str, Any], log: Any = None) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
        log = log or "sse_app.eventlog.MemoryEventLog"
        most = {"STREAMS_PER_SESSION": 2, "STREAMS_PER_USER": 2, "STREAMS_PER_ADDRESS": 2}
        settings.SSE_APP = {**NONE, **most, "EVENT_LOG": log}

    return use


def in_another_loop(*given: Any) -> str | None:
    """Return why a request is refused that comes to another event loop."""

    async def ask() -> str | None:
        refused = await reason(Limits(), *given)
        counts = shared_counts()
        while counts is not None and counts._task is not None:
            await asyncio.wait([counts._task])
        return refused

    return asyncio.run(ask())


async def refuses_elsewhere() -> bool:
    """Do two streams here refuse a third elsewhere, until they end?"""
    session = uuid.uuid4().hex
    user = SimpleNamespace(pk=session, is_authenticated=True)
    address = Address(session, {session: 1}, True)
    limits = Limits()
    held = [await admit(limits, address, session, user) for _ in range(2)]
    refused = [
        await asyncio.to_thread(in_another_loop, *given)
        for given in ((LOOPBACK, session), (LOOPBACK, None, user), (address, "another"))
    ]
    for slots in held:
        slots.release()
    counts = shared_counts()
    if counts is not None and counts._task is not None:
        await asyncio.wait([counts._task])
    assert await asyncio.to_thread(in_another_loop, address, session, user) is None
    assert refused in ([None] * 3, ["session", "user", "address"])
    return any(refused)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("backend", [PUBSUB, CORE])
@pytest.mark.parametrize("kind", ["url", "address", "pair", "keywords"])
async def test_redis_is_where_the_channel_layer_is(
    use: Callable[..., None], valkey: str, backend: str, kind: str
) -> None:
    port = int(valkey.rpartition(":")[2].partition("/")[0])
    host: Any = {
        "url": valkey,
        "address": {"address": valkey},
        "pair": ("127.0.0.1", port),
        "keywords": {"host": "127.0.0.1", "port": port},
    }[kind]
    use(backend, {"hosts": [host], "prefix": f"test.{uuid.uuid4().hex}"})
    assert await refuses_elsewhere()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("node", range(3))
@pytest.mark.parametrize("kind", ["url", "keywords"])
async def test_a_layer_on_a_cluster_counts_on_the_node_that_has_the_counts(
    use: Callable[..., None], valkey_cluster: str, node: int, kind: str
) -> None:
    with redis.RedisCluster.from_url(valkey_cluster) as cluster:
        port = sorted(each.port for each in cluster.get_primaries())[node]
    host: Any = f"redis://127.0.0.1:{port}/0"
    if kind == "keywords":
        host = {"host": "127.0.0.1", "port": port}
    use(PUBSUB, {"hosts": [host], "prefix": f"test.{uuid.uuid4().hex}"})
    assert await limits_redis.probe()
    assert await refuses_elsewhere()
    assert limits_redis.are_shared()


@pytest.mark.usefixtures("patient")
async def test_counting_alone_is_told_to_whoever_asks(
    use: Callable[..., None], server: Valkey
) -> None:
    use(PUBSUB, {"hosts": [server.url]})
    assert limits_redis.are_shared() is None
    session = uuid.uuid4().hex
    held = await admit(Limits(), LOOPBACK, session)
    assert limits_redis.are_shared()
    held.release()
    server.kill()
    held = await admit(Limits(), LOOPBACK, session)
    await until(lambda: not limits_redis.are_shared())
    with pytest.raises(redis.ConnectionError):
        await limits_redis.probe()
    held.release()


@pytest.mark.usefixtures("patient")
async def test_redis_is_where_the_event_log_is(use: Callable[..., None], valkey: str) -> None:
    log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": valkey, "PREFIX": "test.limits"}
    use("channels.layers.InMemoryChannelLayer", {}, log)
    assert await refuses_elsewhere()


async def test_all_processes_count_the_networks_of_one_customer(
    use: Callable[..., None], valkey: str
) -> None:
    log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": valkey, "PREFIX": "test.site"}
    use("channels.layers.InMemoryChannelLayer", {}, log)
    near = [client_address({"client": (f"2a00:1450:0:{n:x}::1", 1)}) for n in range(9)]
    limits = Limits()
    held = [await admit(limits, address, uuid.uuid4().hex) for address in near[:8]]
    elsewhere = await asyncio.to_thread(in_another_loop, near[8], "a")
    for slots in held:
        slots.release()
    counts = shared_counts()
    assert counts is not None
    assert counts._task is not None
    await asyncio.wait([counts._task])
    assert elsewhere == "address"
    assert await asyncio.to_thread(in_another_loop, near[8], "a") is None


async def test_without_a_redis_each_process_counts_alone(use: Callable[..., None]) -> None:
    use("channels.layers.InMemoryChannelLayer", {})
    assert shared_counts() is None
    assert not await refuses_elsewhere()


async def test_where_no_limit_is_shared_nothing_is_asked(
    use: Callable[..., None], settings: Any
) -> None:
    use(PUBSUB, {"hosts": [f"redis://127.0.0.1:{free_port()}"]})
    settings.SSE_APP = {**settings.SSE_APP, "STREAMS_PER_PROCESS": 1}
    limits = Limits()
    with await admit(limits, LOOPBACK):
        assert await reason(limits, HOME, "a", ANN) == "process"
    counts = shared_counts()
    assert counts is not None
    assert not counts.alone


async def test_a_request_that_is_cancelled_while_redis_hangs_holds_nothing(
    use: Callable[..., None], server: Valkey
) -> None:
    use(PUBSUB, {"hosts": [server.url]})
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    limits = Limits()
    asking = asyncio.create_task(limits.admit(LOOPBACK, "a"))
    await until(lambda: bool(limits.counts))
    asking.cancel()
    await asyncio.wait([asking])
    assert limits.counts == {}
    counts = shared_counts()
    assert counts is not None
    while counts._task is not None:
        await asyncio.wait([counts._task])
    assert not counts._held
