"""The garbage collector of a process that serves streams."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator

import pytest

from sse_app.runtime.garbage import DEFAULTS, NEW_OBJECTS, collect_rarely

from ..support.servers import Daphne
from ..support.sleepers import run


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize("first", DEFAULTS)
def test_pythons_own_threshold_is_raised(first: int) -> None:
    gc.set_threshold(first, 7, 8)
    collect_rarely()
    assert gc.get_threshold() == (NEW_OBJECTS, 7, 8)


@pytest.mark.parametrize("first", [0, 500, 50_000])
def test_a_threshold_of_the_project_stays(first: int) -> None:
    gc.set_threshold(first, 7, 8)
    collect_rarely()
    assert gc.get_threshold() == (first, 7, 8)


async def test_a_server_process_collects_rarely(make_daphne: Callable[..., Daphne]) -> None:
    site = make_daphne()
    async with site.stream("group=orders") as stream:
        await stream.next()
        thresholds = await asyncio.to_thread(run, site, "import gc\nresult = gc.get_threshold()")
    assert thresholds[0] == NEW_OBJECTS
