"""The stop of a server while a sync view is under way, whose thread nobody can stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ..support.patience import PATIENCE
from ..support.servers import Daphne, eventually
from ..support.sleepers import run

VIEW = """
import time
from pathlib import Path
Path({folder!r}, "under way").touch()
while not Path({folder!r}, "may end").exists():
    time.sleep(0.01)
result = "answered"
"""
PATIENT = "from sse_app.operations import shutdown\nshutdown.CLOSE_SECONDS = {seconds}"


async def stopped_during_a_view(
    daphne: Daphne, folder: Path, pool: ThreadPoolExecutor
) -> Future[str]:
    """Return the view's answer, after the stop of the server has closed a stream."""
    async with daphne.stream("group=orders") as stream:
        assert (await stream.next()).name == "sse.open"
        view = pool.submit(run, daphne, VIEW.format(folder=str(folder)))
        eventually((folder / "under way").exists, "the view does not begin")
        assert daphne.process
        daphne.process.send_signal(signal.SIGTERM)
        closed = (await stream.until_end())[-1]
    assert (closed.name, closed.data) == ("sse.close", '{"reason":"shutdown"}')
    return view


async def test_a_view_under_way_delays_no_stream_and_answers(
    make_daphne: Callable[..., Daphne], tmp_path: Path
) -> None:
    daphne = make_daphne()
    run(daphne, PATIENT.format(seconds=600))
    with ThreadPoolExecutor() as pool:
        view = await stopped_during_a_view(daphne, tmp_path, pool)
        (tmp_path / "may end").touch()
        assert view.result(PATIENCE) == "answered"
    assert daphne.process
    assert daphne.process.wait(PATIENCE) == 0, daphne.text()


async def test_a_view_that_takes_longer_loses_its_connection_and_the_process_ends_in_order(
    make_daphne: Callable[..., Daphne], tmp_path: Path
) -> None:
    daphne = make_daphne()
    run(daphne, PATIENT.format(seconds=0.1))
    with ThreadPoolExecutor() as pool:
        view = await stopped_during_a_view(daphne, tmp_path, pool)
        with pytest.raises(httpx.RemoteProtocolError):
            view.result(PATIENCE)
        (tmp_path / "may end").touch()
    assert daphne.process
    assert daphne.process.wait(PATIENCE) == 0, daphne.text()


async def test_a_response_that_has_started_delays_no_stop(daphne: Daphne) -> None:
    url = f"{daphne.url}/test/resuming/?wait=1"
    async with httpx.AsyncClient(timeout=PATIENCE) as client, client.stream("GET", url) as answer:
        assert answer.status_code == 200
        run(daphne, PATIENT.format(seconds=600))
        assert daphne.process
        daphne.process.send_signal(signal.SIGTERM)
        async for _ in answer.aiter_raw():
            pass  # Up to the last chunk, else httpx raises.
    assert daphne.process.wait(PATIENCE) == 0, daphne.text()
