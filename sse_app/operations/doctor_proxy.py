"""Whether a proxy before the server passes an event stream on: for `sse_doctor --url`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from ..conf import settings
from .doctor import Finding, Level
from .sse_client import Stopped, httpx

#: If the first event takes longer, a proxy buffers it.
FIRST_SECONDS: Final = 5.0
SLACK_SECONDS: Final = 5.0
ABOUT: Final = "stream"
_BUFFERS: Final = (
    "A proxy buffers the stream: nginx needs 'proxy_buffering off;' and 'proxy_http_version 1.1;' "
    "for it, and no gzip for text/event-stream."
)


async def examine_stream(url: str, token: str = "") -> AsyncIterator[Finding]:
    """Yield findings about the stream at `url`, which is read until its first heartbeat."""
    try:
        client = httpx()
    except Stopped as missing:
        yield Finding("error", ABOUT, "Not examined.", str(missing))
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
        yield Finding("error", ABOUT, f"Can't be read: {error!r}.", "See the proxy's log.")


def _fault_of(response: Any) -> Finding | None:
    kind = response.headers.get("content-type", "").partition(";")[0]
    encoding = response.headers.get("content-encoding", "identity")
    if response.is_redirect:
        where = response.headers.get("location", "")
        return Finding(
            "error",
            ABOUT,
            f"Redirects to {where}; some clients don't follow redirects.",
            "Use the address of the redirect.",
        )
    if response.status_code != 200:
        text = f"Answers {response.status_code}."
        hints = {
            403: "Name a group that may be read, or give --token.",
            404: "Is sse_app.urls included, and is this its address?",
            502: "The proxy can't connect to the server; it should answer 200 with 'retry:' then.",
        }
        hint = hints.get(response.status_code, "See the server's log.")
        return Finding("error", ABOUT, text, hint)
    if kind != "text/event-stream":
        hint = "Wrap the application in asgi.py in event_stream_application()."
        text = f"The answer is {kind or 'of no content type'}, not an event stream."
        return Finding("error", ABOUT, text, hint)
    if encoding != "identity":
        text = f"Compressed ({encoding}): the compression delays events until it has enough data."
        return Finding("error", ABOUT, text, "Exclude text/event-stream from compression.")
    return None


async def _read(response: Any, began: float, wait_seconds: float) -> AsyncIterator[Finding]:
    """Expect the first event soon, and then more data: an event, or at the latest a heartbeat."""
    got, opened = b"", False
    async for chunk in response.aiter_raw():
        took = time.monotonic() - began
        if opened:
            yield Finding("fine", ABOUT, f"The next data came after {took:.1f} s.")
            return
        got += chunk
        if b"\n\n" not in got:
            continue
        opened = True
        first = got.partition(b"\n\n")[0].decode(errors="replace")
        if "event: sse.open" not in first:
            text = " ".join(line for line in first.splitlines() if not line.startswith("retry:"))
            hint = (
                "sse.busy: a limit is reached, or the log does not answer. sse.close: the server "
                "ended the stream, for example because its grant has expired."
            )
            yield Finding("error", ABOUT, f"Does not open: {text}", hint)
            return
        late = took > FIRST_SECONDS
        level: Level = "error" if late else "fine"
        text = f"The first event came after {took:.2f} s."
        yield Finding(level, ABOUT, text, _BUFFERS if late else "")
    yield Finding(
        "error", ABOUT, f"Ended within {wait_seconds:g} s.", "See the proxy's time limits."
    )
