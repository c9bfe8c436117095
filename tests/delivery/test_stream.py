"""The stream over a real Daphne."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from sse_app.delivery.cohorts import LEAST_MEMBERS

from ..support.patience import PATIENCE
from ..support.servers import FAILED_STREAM, Daphne, eventually
from ..support.sleepers import connect, hang_up


async def test_a_stream_opens_with_retry_headers_and_a_position(shared_daphne: Daphne) -> None:
    async with shared_daphne.stream("group=orders&group=clock") as stream:
        first = await stream.next()
    headers = stream.response.headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-store, private, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-content-type-options"] == "nosniff"
    assert first.name == "sse.open"
    assert first.opening() == {"recovered": False, "missed": 0, "groups": ["orders", "clock"]}
    assert first.id.startswith("1.")
    assert 2000 <= (stream.parser.retry or 0) <= 5000


@pytest.mark.parametrize("how", ["publish", "apublish", "publish-in-thread"])
async def test_what_this_process_publishes_arrives_without_waiting_for_the_check(
    make_daphne: Callable[..., Daphne], how: str
) -> None:
    daphne = make_daphne(CHECK_INTERVAL=600)
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        for n in range(5):
            await asyncio.to_thread(daphne.publish, "orders", "named", f"n {n}", how)
            event = await stream.next()
            assert (event.name, event.data) == ("named", f"n {n}")


async def test_on_sqlite_another_process_publishes_without_waiting_for_the_check(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(CHECK_INTERVAL=600)  # so that only watching the file can tell
    async with daphne.stream("group=orders") as stream:
        await stream.next()
        for n in range(2):
            await asyncio.to_thread(
                daphne.shell, f"from sse_app import publish\npublish('orders', 'named', '{n}')"
            )
            assert (await stream.next()).data == str(n)


async def test_with_redis_other_processes_get_durable_and_passing_events(
    make_daphne: Callable[..., Daphne], valkey: str
) -> None:
    here = make_daphne({"REDIS_URL": valkey}, CHECK_INTERVAL=60)
    there = make_daphne({"REDIS_URL": valkey}, CHECK_INTERVAL=60)
    code = (
        "from sse_app import publish\n"
        "publish('orders', 'passing', 'p', durable=False); publish('orders', 'durable', 'd')"
    )
    async with here.stream("group=orders") as one, there.stream("group=orders") as two:
        await one.next()
        await two.next()
        await asyncio.to_thread(here.shell, code)
        for stream in (one, two):
            passing, durable = await stream.take(2)
            assert (passing.name, passing.data) == ("passing", "p")
            assert (durable.name, durable.data) == ("durable", "d")


async def test_several_groups_and_a_filter(shared_daphne: Daphne) -> None:
    async with (
        shared_daphne.stream("group=orders&group=chat.a") as both,
        shared_daphne.stream("group=orders&event=wanted") as filtered,
    ):
        await both.next()
        await filtered.next()
        for group, name in (("orders", "other"), ("chat.a", "wanted"), ("orders", "wanted")):
            shared_daphne.publish(group, name, group)
        assert [(e.name, e.data) for e in await both.take(3)] == [
            ("other", "orders"),
            ("wanted", "chat.a"),
            ("wanted", "orders"),
        ]
        only = await filtered.next()
        assert (only.name, only.data) == ("wanted", "orders")


async def test_a_filtered_stream_moves_its_cursor_over_what_it_does_not_show(
    shared_daphne: Daphne,
) -> None:
    async with shared_daphne.stream("group=orders&event=wanted") as stream:
        await stream.next()
        shared_daphne.shell(
            "from sse_app import publish_many\n"
            "publish_many([('orders', 'other', n) for n in range(501)])"
        )
        moved = await stream.next()
    assert (moved.name, moved.json()) == ("sse.cursor", {})
    async with shared_daphne.stream("group=orders", {"Last-Event-ID": moved.id}) as stream:
        assert (await stream.next()).json()["missed"] == 1


async def test_a_dropped_stream_resumes_from_its_last_id(shared_daphne: Daphne) -> None:
    async with shared_daphne.stream("group=orders") as stream:
        await stream.next()
        shared_daphne.publish("orders", "n", "1")
        last = await stream.next()
    for n in (2, 3, 4):
        shared_daphne.publish("orders", "n", str(n))
    ways: list[tuple[str, dict[str, str]]] = [
        ("group=orders", {"Last-Event-ID": last.id}),
        (f"group=orders&last_event_id={last.id}", {}),
        (f"group=orders&lastEventId={last.id}", {}),
        ("group=orders&from=earliest&last_event_id=x", {"Last-Event-ID": last.id}),
    ]
    for query, headers in ways:
        async with shared_daphne.stream(query, headers) as stream:
            opened, *events = await stream.take(4)
            assert opened.id == last.id
            assert opened.opening() == {"recovered": True, "missed": 3, "groups": ["orders"]}
            assert [e.data for e in events] == ["2", "3", "4"]
    async with shared_daphne.stream(*ways[0]) as stream:
        await stream.take(4)
        shared_daphne.publish("orders", "n", "live")
        assert (await stream.next()).data == "live"


async def test_history_on_request(daphne: Daphne) -> None:
    for n in range(5):
        daphne.publish("orders", "n", str(n))
    async with daphne.stream("group=orders&from=earliest") as stream:
        assert [e.data for e in (await stream.take(6))[1:]] == list("01234")
    async with daphne.stream("group=orders&from=-2") as stream:
        assert [e.data for e in (await stream.take(3))[1:]] == list("34")


@pytest.mark.parametrize(
    "query",
    [
        *("from=", "from=abc", "from=5", "from=-0", "from=--3", "from=-3.5", "from=-1e3"),
        *("from=-9999999999", "from=-%D9%A3", "from=-2%0A", "from=Earliest", "from=%00"),
        *("from=-2&from=-2", "from=earliest&from=abc"),
    ],
)
async def test_a_history_that_can_not_be_read_is_told_and_the_stream_goes_on(
    shared_daphne: Daphne, query: str
) -> None:
    async with shared_daphne.stream(f"group=chat.past&{query}") as stream:
        assert stream.response.status_code == 200
        opened, reset = await stream.take(2)
        assert opened.opening() == {"recovered": False, "missed": 0, "groups": ["chat.past"]}
        assert reset.json() == {"group": "chat.past", "reason": "unknown"}
        shared_daphne.publish("chat.past", "n", "after")
        assert (await stream.next()).data == "after"


async def test_an_id_counts_before_a_history_whatever_that_is(shared_daphne: Daphne) -> None:
    async with shared_daphne.stream("group=chat.past") as stream:
        position = (await stream.next()).id
    async with shared_daphne.stream(f"group=chat.past&from=abc&last_event_id={position}") as stream:
        assert (await stream.next()).json()["recovered"] is True


async def test_a_stranger_has_at_most_replay_events_of_history_read(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(REPLAY_EVENTS=3)
    for n in range(9):
        daphne.publish("orders", "n", str(n))
    for wanted in ("earliest", "-9", "-4", "-3", "-999999999"):
        async with daphne.stream(f"group=orders&from={wanted}") as stream:
            opened, *events = await stream.take(4)
            assert opened.json()["missed"] == 3
            assert [event.data for event in events] == list("678")
    async with daphne.stream("group=orders&from=-2") as stream:
        assert [event.data for event in (await stream.take(3))[1:]] == list("78")


@pytest.mark.parametrize("query", ["ping=yes", "ping=", "label=true", "label=1&label=0", "ping=2"])
async def test_a_flag_that_is_neither_1_nor_0_is_400_and_named(
    shared_daphne: Daphne, query: str
) -> None:
    async with httpx.AsyncClient(base_url=shared_daphne.url) as client:
        answer = await client.get(f"/events/?group=orders&{query}")
    assert answer.status_code == 400
    flag = query.partition("=")[0]
    assert f"is neither {flag}=1 nor {flag}=0" in answer.text
    async with shared_daphne.stream(f"group=orders&{flag}=0") as stream:
        assert (await stream.next()).name == "sse.open"


async def _reset_of(daphne: Daphne, id: str) -> str:
    async with daphne.stream("group=orders", {"Last-Event-ID": id}) as stream:
        assert stream.response.status_code == 200
        opened, reset = await stream.take(2)
        assert opened.json()["recovered"] is False
        assert reset.name == "sse.reset"
        assert reset.json()["group"] == "orders"
        daphne.publish("orders", "n", "after")
        after = await stream.next()
        assert after.data == "after"
    async with daphne.stream("group=orders", {"Last-Event-ID": reset.id}) as stream:
        assert (await stream.next()).json()["recovered"] is True
    return str(reset.json()["reason"])


async def test_a_cursor_that_can_not_be_continued_is_reset_with_the_reason(
    shared_daphne: Daphne,
) -> None:
    for n in range(3):
        shared_daphne.publish("orders", "n", str(n))
    async with shared_daphne.stream("group=orders&from=-1") as stream:
        opened, last = await stream.take(2)
    assert await _reset_of(shared_daphne, f"{opened.id[:-4]}lost") == "epoch"
    version_and_group, epoch, three = last.id.split("-")
    for bad in ("x" * 2000, "17", "1.", "1.a-b", "0", "1.aaaaaaaa-x-01"):
        assert await _reset_of(shared_daphne, bad) == "unknown"
    assert await _reset_of(shared_daphne, f"{version_and_group}-{epoch}-99999") == "future"
    assert await _reset_of(shared_daphne, f"{version_and_group}-zzzzzzzz-1") == "epoch"
    went_back = f"{version_and_group}-{epoch}-{three[:-4]}lost"
    assert await _reset_of(shared_daphne, went_back) == "epoch"
    assert await _reset_of(shared_daphne, f"{version_and_group}-{epoch}-1lost") == "epoch"
    shared_daphne.shell(
        "from sse_app.models import StoredEvent\n"
        "StoredEvent.objects.filter(group='orders', offset__lte=2).delete()"
    )
    assert await _reset_of(shared_daphne, f"{version_and_group}-{epoch}-1") == "trimmed"


async def test_a_cursor_of_other_groups_starts_from_now(shared_daphne: Daphne) -> None:
    shared_daphne.publish("chat.a", "n", "1")
    shared_daphne.publish("orders", "n", "1")
    async with shared_daphne.stream("group=chat.a&from=-1") as stream:
        _, foreign = await stream.take(2)
    async with shared_daphne.stream("group=orders", {"Last-Event-ID": foreign.id}) as stream:
        opened = await stream.next()
        assert opened.opening() == {"recovered": False, "missed": 0, "groups": ["orders"]}
        shared_daphne.publish("orders", "n", "2")
        assert (await stream.next()).data == "2"


async def test_heartbeats_are_comments_or_pings_on_request(shared_daphne: Daphne) -> None:
    async with (
        shared_daphne.stream("group=orders") as quiet,
        shared_daphne.stream("group=orders&ping=1") as ping,
    ):
        await quiet.next()
        await quiet.heartbeat()
        await quiet.heartbeat()
        await ping.next()
        still = await ping.next()
        assert (still.name, still.json()) == ("sse.ping", {})
        shared_daphne.publish("orders", "n", "1")
        while (last := await ping.next()).name != "n":
            assert last.name == "sse.ping"
        moved = await ping.next()
        assert (moved.name, moved.id) == ("sse.ping", last.id)


async def test_a_stream_ends_with_its_life_and_goes_on_from_the_farewell(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(PUBLIC_STREAM_LIFE=0.5, HEARTBEAT=0.2)
    daphne.publish("orders", "n", "1")
    async with daphne.stream("group=orders") as stream:
        *_, last = await stream.until_end()
    assert (last.name, last.json()) == ("sse.close", {"reason": "age"})
    assert 200 <= (stream.parser.retry or 0) <= 500
    daphne.publish("orders", "n", "2")
    async with daphne.stream("group=orders", {"Last-Event-ID": last.id}) as stream:
        assert [e.data for e in (await stream.take(2))[1:]] == ["2"]


async def test_a_response_that_is_to_be_short_ends_after_its_first_events(
    shared_daphne: Daphne,
) -> None:
    """Also beside as many long ones as are written to as one."""
    query = "group=orders&wait=60"
    async with AsyncExitStack() as open_streams:
        for _ in range(LEAST_MEMBERS):
            stream = await open_streams.enter_async_context(shared_daphne.stream("group=orders"))
            await stream.next()
        async with shared_daphne.stream(query) as stream:
            opened = await stream.next()
            shared_daphne.publish("orders", "n", "1")
            *_, event, last = await stream.until_end()
        assert (opened.name, event.data) == ("sse.open", "1")
        assert (last.name, last.json()) == ("sse.close", {"reason": "age"})
        # What was published between two responses is in the next one, which ends for it.
        for n in (2, 3):
            shared_daphne.publish("orders", "n", str(n))
        async with shared_daphne.stream(query, {"Last-Event-ID": last.id}) as stream:
            events = await stream.until_end()
        assert [event.data for event in events if event.name == "n"] == ["2", "3"]


@pytest.mark.parametrize("wait", ["", "0", "61", "1.5", "-1", "٣", "1&wait=2"])
def test_a_wait_that_is_no_number_of_seconds_is_400_and_named(
    shared_daphne: Daphne, wait: str
) -> None:
    answer = httpx.get(f"{shared_daphne.url}/events/?group=orders&wait={wait}")
    assert answer.status_code == 400
    assert answer.text == f"wait={wait.replace('&wait=', ',')} is not a whole number from 1 to 60."


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_disconnect_is_noticed_at_once(
    make_daphne: Callable[..., Daphne], how: str
) -> None:
    daphne = make_daphne(HEARTBEAT=600)  # No write can find it out.
    connection = connect(daphne)
    daphne.until_streams(1)
    hang_up(connection, how)
    eventually(lambda: not daphne.streams(), "the stream stayed open", within=2.0)


def test_a_client_that_goes_on_sending_and_leaves_is_noticed(daphne: Daphne) -> None:
    """Twisted stops reading after 16 KiB that nobody takes, and so sees no end: a write has to."""
    connection = connect(daphne)
    daphne.until_streams(1)
    connection.sendall(b"x" * 100_000)
    hang_up(connection, "rst")
    eventually(lambda: not daphne.streams(), "the stream stayed open", within=5.0)


async def test_an_exception_inside_a_stream_leaves_the_server_healthy(daphne: Daphne) -> None:
    async with daphne.stream("group=orders") as other:
        await other.next()
        broken = await asyncio.to_thread(httpx.get, f"{daphne.url}/test/failing/")
        assert FAILED_STREAM.fullmatch(broken.text)
        escaping = await asyncio.to_thread(httpx.get, f"{daphne.url}/test/escaping/")
        assert escaping.text == "begun"
        # Daphne reaps finished connections once a second, and would stop doing so for good.
        eventually(lambda: "escaped on purpose" in daphne.text())
        daphne.publish("orders", "n", "still here")
        assert (await other.next()).data == "still here"
    eventually(lambda: httpx.get(f"{daphne.url}/test/connections/").json()["waiting"] == 0)


async def test_sigterm_says_farewell_to_all_in_spite_of_a_half_sent_request(
    daphne: Daphne,
) -> None:
    half = socket.create_connection(("127.0.0.1", daphne.port))
    half.sendall(b"POST /events/send/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=PATIENCE, limits=limits) as client:
        opened = asyncio.Semaphore(0)

        async def listen() -> str:
            async with daphne.stream("group=orders", client=client) as stream:
                await stream.next()
                opened.release()
                *_, last = await stream.until_end()
                assert 1000 <= (stream.parser.retry or 0) <= 10_000
                assert last.id
                return f"{last.name} {last.json()['reason']}"

        listeners = [asyncio.create_task(listen()) for _ in range(200)]
        for _ in listeners:
            await opened.acquire()
        await asyncio.to_thread(daphne.stop)
        farewells = await asyncio.gather(*listeners)
    half.close()
    assert farewells == ["sse.close shutdown"] * 200


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("", 400, "?group="),
        ("group=a%0a", 400, "'a\\n'"),
        ("group=%D9%A3", 400, "Invalid group name"),
        ("group=sse.x", 400, "reserved"),
        ("group=orders&event=a%20b", 400, "'a b'"),
        ("group=orders&amp;last_event_id=1.a-b-1", 400, "'amp;last_event_id'"),
        ("&".join(f"group=g{n}" for n in range(21)), 400, "21 groups"),
        ("group=orders&" + "a&" * 2000, 400, "number of GET/POST parameters"),
        ("group=secret", 403, "Not permitted"),
        ("group=user.1", 403, "Not permitted"),
        ("group=orders&group=secret", 403, "Not permitted"),
    ],
)
def test_bad_requests_get_a_clear_answer(
    shared_daphne: Daphne, query: str, status: int, says: str
) -> None:
    answer = httpx.get(f"{shared_daphne.url}/events/?{query}")
    assert answer.status_code == status
    assert says in answer.text


def test_other_methods_hosts_and_the_missing_slash(shared_daphne: Daphne) -> None:
    url = f"{shared_daphne.url}/events/?group=orders"
    head = httpx.head(url)
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/event-stream")
    assert httpx.options(url).headers["allow"] == "GET, HEAD, OPTIONS"
    assert httpx.post(url).status_code == 405
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 400
    with httpx.stream("GET", f"{shared_daphne.url}/events?group=orders") as answer:
        assert answer.status_code == 200
        assert next(answer.iter_lines()).startswith("retry:")


def test_head_is_answered_by_the_head_alone_and_ends(shared_daphne: Daphne) -> None:
    """Daphne would send a body all the same."""
    request = b"HEAD /events/?group=orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(
        ("127.0.0.1", shared_daphne.port), timeout=PATIENCE
    ) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")


def test_a_signed_in_user_hears_their_own_group(shared_daphne: Daphne) -> None:
    with httpx.Client(base_url=shared_daphne.url) as client:
        client.post("/test/login/", data={"name": "carol"})
        own = client.get("/test/whoami/").json()["pk"]
        with client.stream("GET", f"/events/?group=user.{own}") as answer:
            assert answer.status_code == 200
        assert client.get(f"/events/?group=user.{own + 1}").status_code == 403


async def test_a_log_that_is_away_is_busy_and_no_error(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne()
    daphne.shell(
        "from django.db import connection\n"
        "connection.cursor().execute('ALTER TABLE sse_app_grouphead RENAME TO away')"
    )
    async with daphne.stream("group=orders") as stream:
        (busy,) = await stream.until_end()
    assert stream.response.status_code == 200
    assert (busy.name, busy.json()["reason"]) == ("sse.busy", "log")
    assert 15_000 <= (stream.parser.retry or 0) <= 60_000


@pytest.mark.parametrize("lost", ["the id", "the log"])
async def test_a_page_that_lost_its_reset_is_reset_again(daphne: Daphne, lost: str) -> None:
    """The id of `sse.open` must not say that the page stands where it was about to be put."""
    daphne.publish("orders", "n", "1")
    daphne.publish("chat.a", "n", "1")
    query = "group=orders&group=chat.a"
    id = "unreadable"
    if lost == "the log":
        async with daphne.stream(query) as stream:
            id = (await stream.next()).id
        await asyncio.to_thread(daphne.manage, "sse_new_epoch")
    async with daphne.stream(query, {"Last-Event-ID": id}) as stream:
        opened, first = await stream.take(2)
    told = first.json()["group"]
    other = "chat.a" if told == "orders" else "orders"
    async with daphne.stream(query, {"Last-Event-ID": opened.id}) as stream:
        _, *resets = await stream.take(3)
        assert {event.json()["group"] for event in resets} == {"orders", "chat.a"}
    async with daphne.stream(query, {"Last-Event-ID": first.id}) as stream:
        _, reset = await stream.take(2)
        assert (reset.name, reset.json()["group"]) == ("sse.reset", other)
    async with daphne.stream(query, {"Last-Event-ID": reset.id}) as stream:
        assert (await stream.next()).json()["recovered"] is True
