"""Why a stream did not get an event: each answer, by what a row says and by real streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sse_app.operations.dashboard.explain import REASONS, Question, explain, to_position
from sse_app.protocol.cursors import START, Position

from ..support.servers import Daphne, eventually
from ..support.sleepers import MORE_THAN_THE_SYSTEM_KEEPS, connect, run

HEAD = Position("abc", 20)
ROW: dict[str, Any] = {
    "id": "0011aabb",
    "groups": ["orders", "chat.a"],
    "events": [],
    "state": "live",
    "queue": 0,
    "opened": {"orders": "abc-5"},
    "positions": {"orders": "abc-15"},
    "resets": {},
    "taken": [],
    "reason": "",
}


def asked(
    offset: int, *, epoch: str = "abc", name: str = "n", earliest: int = 0, **row: Any
) -> Question:
    position = Position(epoch, offset)
    return Question({**ROW, **row}, "orders", position, HEAD, Position("abc", earliest), name)


CASES: list[tuple[str, Question]] = [
    ("unknown", Question(None, "orders", HEAD, HEAD, START)),
    ("taken", asked(12, groups=["chat.a"], taken=["orders"])),
    ("group", asked(12, groups=["chat.a"])),
    ("epoch", asked(12, epoch="old")),
    ("unpublished", asked(21)),
    ("filtered", asked(12, events=["a", "b"])),
    ("filtered", asked(3, events=["a", "b"])),
    ("before", asked(5)),
    ("before", asked(1, state="closed", reason="auth")),
    ("reset", asked(9, resets={"orders": ["abc-10", "trimmed"]})),
    ("reset", asked(9, opened={"orders": "0-0"}, resets={"orders": ["abc-10", "epoch"]})),
    ("reset", asked(18, positions={"orders": "old-15"})),
    ("revoked", asked(16, state="closed", reason="auth")),
    ("revoked", asked(16, state="closed", reason="expired")),
    ("closed", asked(16, state="closed", reason="disconnect")),
    ("pruned", asked(16, earliest=16, state="lagging")),
    ("held", asked(16, state="held")),
    ("lagging", asked(16, state="lagging")),
    ("coming", asked(16, state="catching up")),
    ("coming", asked(16)),
    ("sent", asked(15)),
    ("sent", asked(6)),
    ("sent", asked(6, earliest=10, name="", events=["n"])),
    ("sent", asked(12, state="closed", reason="disconnect")),
    ("sent", asked(1, opened={"orders": "0-0"})),
    ("sent", asked(12, events=["n"])),
]


@pytest.mark.parametrize(("reason", "question"), CASES)
def test_every_reason_is_found(reason: str, question: Question) -> None:
    verdict = explain(question)
    assert verdict.reason == reason
    assert len(verdict.text) > 30
    assert "%" not in verdict.text.replace("{% sse_stream %}", "")


def test_there_is_a_case_for_each_reason() -> None:
    assert {reason for reason, _ in CASES} == set(REASONS)


def test_texts_name_what_is_behind_and_what_waits() -> None:
    assert "3 events" in explain(asked(18, state="lagging")).text
    assert "500 bytes" in explain(asked(12, queue=500)).text
    assert "event=n" in explain(asked(12, events=["a"])).text
    assert "filter" in explain(asked(6, earliest=10, name="", events=["n"])).text


@pytest.mark.parametrize("text", ["", "abc", "abc-", "-", "abc-x", "abc--1"])
def test_a_place_that_can_not_be_read_is_the_start(text: str) -> None:
    assert to_position(text) == START


# --- over real streams, in the words of the admin ---


def asks(
    daphne: Daphne, stream: str, group: str, offset: int, epoch: str = ""
) -> Callable[[], str]:
    """What the admin's page answers, as soon as the processes have said what there is."""
    asked = {"stream": stream, "group": group, "offset": str(offset), "epoch": epoch}
    code = (
        "from sse_app.operations.dashboard import poller as watching\n"
        "from sse_app.operations.dashboard.admin import _verdict_of\n"
        f"verdict, error = _verdict_of({asked!r}, watching.find_stream({stream!r}), "
        "named=True)\n"
        "result = verdict.reason if verdict else error"
    )
    return lambda: run(daphne, code)


async def says(daphne: Daphne, reason: str, *asked: Any) -> None:
    ask = asks(daphne, *asked)
    await asyncio.to_thread(eventually, lambda: ask() == reason, f"{ask()} is not {reason}")


def ids(daphne: Daphne) -> set[str]:
    code = (
        "from sse_app.operations.reports import streams\n"
        "result = [stream.id for stream in streams()]"
    )
    return set(run(daphne, code))


async def test_a_real_stream_says_sent_before_filtered_group_and_unpublished(
    daphne: Daphne,
) -> None:
    daphne.publish("orders", "n", "1")
    async with daphne.stream("group=orders&event=n") as stream:
        await stream.next()
        (id,) = await asyncio.to_thread(ids, daphne)
        daphne.publish("orders", "n", "2")
        daphne.publish("orders", "other", "3")
        assert (await stream.next()).data == "2"
        await says(daphne, "sent", id, "orders", 2)
        await says(daphne, "before", id, "orders", 1)
        await says(daphne, "filtered", id, "orders", 3)
        await says(daphne, "group", id, "chat.a", 1)
        await says(daphne, "unpublished", id, "orders", 4)
        await says(daphne, "unknown", "ffffffff", "orders", 1)
        await says(daphne, "epoch", id, "orders", 2, "another")


@pytest.mark.slow
async def test_a_stream_from_which_a_group_or_all_was_taken(daphne: Daphne) -> None:
    async with daphne.stream("group=orders&group=chat.a") as stream:
        await stream.next()
        (id,) = await asyncio.to_thread(ids, daphne)
        await asyncio.to_thread(
            run, daphne, "from sse_app import disconnect\ndisconnect(group='orders')"
        )
        assert (await stream.next()).name == "sse.reset"
        daphne.publish("orders", "n", "1")
        await says(daphne, "taken", id, "orders", 1)
        await asyncio.to_thread(
            run, daphne, f"from sse_app.access.disconnect import end_stream\nend_stream({id!r})"
        )
        assert (await stream.next()).json() == {"reason": "auth"}
        daphne.publish("chat.a", "n", "1")
        await says(daphne, "revoked", id, "chat.a", 1)


@pytest.mark.slow
async def test_a_stream_that_left_and_one_that_was_reset(daphne: Daphne) -> None:
    async with daphne.stream("group=orders") as stream:
        opened = await stream.next()
        (gone,) = await asyncio.to_thread(ids, daphne)
    daphne.publish("orders", "n", "1")
    await says(daphne, "closed", gone, "orders", 1)
    async with daphne.stream(f"group=orders&last_event_id={opened.id}x") as stream:
        assert (await stream.next()).name == "sse.open"
        assert (await stream.next()).name == "sse.reset"
        (id,) = await asyncio.to_thread(ids, daphne)
        await says(daphne, "reset", id, "orders", 1)


@pytest.mark.slow
def test_a_real_reader_that_lags_and_what_it_did_not_come_to_before_it_was_pruned(
    make_daphne: Callable[..., Daphne],
) -> None:
    daphne = make_daphne(RETENTION_EVENTS=10, STALL_SECONDS=600)
    sleeper = connect(daphne)
    run(daphne, MORE_THAN_THE_SYSTEM_KEEPS)
    (id,) = ids(daphne)
    lagging, pruned = asks(daphne, id, "orders", 200), asks(daphne, id, "orders", 180)
    eventually(lambda: lagging() == "lagging", lagging())
    daphne.manage("sse_prune")
    eventually(lambda: pruned() == "pruned", pruned())
    assert lagging() == "lagging"
    sleeper.close()
