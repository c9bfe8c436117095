"""One read for many callers: who shares one, and what each gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sse_app.runtime import batches
from sse_app.runtime.batches import Batches

from ..support.patience import PATIENCE

NEVER = 600.0


class Reads:
    """A read that notes its items, waits for `gate`, and answers with text or an exception."""

    def __init__(self) -> None:
        self.items: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> list[str | Exception]:
        self.items.append(list(items))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [ValueError(str(item)) if item < 0 else str(item) for item in items]


async def begun(reads: Reads, count: int) -> None:
    while len(reads.items) < count:  # noqa: ASYNC110 - an event loop without timers
        await asyncio.sleep(0)


async def test_callers_of_one_turn_and_callers_during_a_read_share_a_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "PATIENCE_SECONDS", NEVER)
    reads = Reads()
    shared = Batches(reads)
    first = [asyncio.create_task(shared.result(n)) for n in (1, 2)]
    await begun(reads, 1)
    second = [asyncio.create_task(shared.result(n)) for n in (3, 4)]
    await asyncio.sleep(0.01)
    reads.gate.set()
    assert await asyncio.gather(*first, *second) == ["1", "2", "3", "4"]
    assert reads.items == [[1, 2], [3, 4]]


async def test_a_read_has_a_limited_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PORTION", 3)
    reads = Reads()
    reads.gate.set()
    shared = Batches(reads)
    await asyncio.gather(*(shared.result(n) for n in range(7)))
    assert reads.items == [[0, 1, 2], [3, 4, 5], [6]]


async def test_an_error_of_one_item_is_its_callers_and_an_error_of_the_read_is_everybodys() -> None:
    reads = Reads()
    reads.gate.set()
    shared = Batches(reads)
    good, bad = await asyncio.gather(shared.result(1), shared.result(-2), return_exceptions=True)
    assert (good, repr(bad)) == ("1", "ValueError('-2')")
    reads.error = KeyError("all")
    both = await asyncio.gather(shared.result(1), shared.result(2), return_exceptions=True)
    assert list(map(repr, both)) == ["KeyError('all')"] * 2
    reads.error = None
    assert await shared.result(5) == "5", "the next read works"


async def test_a_read_that_hangs_does_not_hold_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "PATIENCE_SECONDS", 0.0)
    reads = Reads()
    shared = Batches(reads)
    hanging = asyncio.create_task(shared.result(1))
    await begun(reads, 1)
    gate, reads.gate = reads.gate, asyncio.Event()
    reads.gate.set()
    assert await asyncio.wait_for(shared.result(2), PATIENCE) == "2"
    assert not hanging.done()
    gate.set()
    assert await hanging == "1"
    assert await shared.result(3) == "3"


async def test_a_caller_that_was_cancelled_takes_nothing_from_the_others() -> None:
    reads = Reads()
    shared = Batches(reads)
    first, second = (asyncio.create_task(shared.result(n)) for n in (1, 2))
    await begun(reads, 1)
    waiting = asyncio.create_task(shared.result(3))
    await asyncio.sleep(0)
    first.cancel()
    waiting.cancel()
    reads.gate.set()
    assert await second == "2"
    await asyncio.wait([first, waiting])
    assert await shared.result(4) == "4"
    assert [3] not in reads.items
