"""Whether what stands before the server lets an event stream through: for `sse_doctor --url`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from ..conf import settings
from .doctor import Finding, Level
from .sse_client import Stopped, httpx

#: What a proxy that buffers keeps a stream's first event longer than.
FIRST_SECONDS: Final = 5.0
SLACK_SECONDS: Final = 5.0
ABOUT: Final = "stream"
_BUFFERS: Final = (
    "A proxy buffers it: nginx needs 'proxy_buffering off;' and 'proxy_http_version 1.1;' there, "
    "and no gzip for text/event-stream."
)


async def examine_stream(url: str, token: str = "") -> AsyncIterator[Finding]:
    """Yield what there is to say of the stream at `url`, which it reads until a heartbeat."""
    try:
        client = httpx()
    except Stopped as missing:
        yield Finding("error", ABOUT, "It was not looked at.", str(missing))
        return
    headers = {"Accept-Encoding": "gzip, br", "Accept": "text/event-stream"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    wait_seconds = settings().HEARTBEAT + SLACK_SECONDS
    timeout = client.Timeout(FIRST_SECONDS, read=wait_seconds)
    began = time.monotonic()
    try:
        async with (
            client.AsyncClient(timeout=timeout) as session,
            session.stream("GET", url, headers=headers) as response,
        ):
            fault = _fault_of(response)
            if fault is not None:
                yield fault
                return
            async for finding in _read(response, began, wait_seconds):
                yield finding
    except client.ReadTimeout:
        yield Finding("error", ABOUT, f"Nothing came for {wait_seconds:g} s.", _BUFFERS)
    except (client.HTTPError, client.InvalidURL) as error:
        yield Finding("error", ABOUT, f"It can't be read: {error!r}.", "See the proxy's log.")


def _fault_of(response: Any) -> Finding | None:
    kind = response.headers.get("content-type", "").partition(";")[0]
    encoding = response.headers.get("content-encoding", "identity")
    if response.is_redirect:
        where = response.headers.get("location", "")
        return Finding(
            "error",
            ABOUT,
            f"It redirects to {where}, which some clients don't follow.",
            "Use the address that it leads to.",
        )
    if response.status_code != 200:
        text = f"It answers {response.status_code}."
        hints = {
            403: "Name a group that may be read, or give --token.",
            404: "Is sse_app.urls included, and is this its address?",
            502: "The proxy does not reach the server; let it answer 200 with 'retry:' then.",
        }
        return Finding("error", ABOUT, text, hints.get(response.status_code, "See its log."))
    if kind != "text/event-stream":
        hint = "Wrap the application in asgi.py in event_stream_application()."
        return Finding("error", ABOUT, f"It is {kind or 'of no type'}, no event stream.", hint)
    if encoding != "identity":
        text = f"It is compressed ({encoding}), and so held back until there is enough of it."
        return Finding("error", ABOUT, text, "Exclude text/event-stream from compression.")
    return None


async def _read(response: Any, began: float, wait_seconds: float) -> AsyncIterator[Finding]:
    """Expect the first event at once, and then whatever comes next, a heartbeat at the latest."""
    got, opened = b"", False
    async for chunk in response.aiter_raw():
        took = time.monotonic() - began
        if opened:
            yield Finding("fine", ABOUT, f"More of it came after {took:.1f} s.")
            return
        got += chunk
        if b"\n\n" not in got:
            continue
        opened = True
        first = got.partition(b"\n\n")[0].decode(errors="replace")
        if "event: sse.open" not in first:
            text = " ".join(line for line in first.splitlines() if not line.startswith("retry:"))
            hint = "sse.busy: a limit is reached, or the log is away. sse.close: its time is over."
            yield Finding("error", ABOUT, f"It does not open: {text}", hint)
            return
        late = took > FIRST_SECONDS
        level: Level = "error" if late else "fine"
        text = f"The first event came after {took:.2f} s."
        yield Finding(level, ABOUT, text, _BUFFERS if late else "")
    yield Finding(
        "error", ABOUT, f"It ended within {wait_seconds:g} s.", "See the proxy's time limits."
    )
