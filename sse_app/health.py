"""`GET health/`: may this process get traffic? Its probes are those of `sse_doctor` too."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from . import layer
from .eventlog import event_log
from .hub import Hub

#: The group that probes use; nobody else does.
GROUP: Final = "doctor"
PROBE_SECONDS: Final = 2.0
#: Whoever asks, nothing is probed more often than this.
KEPT_SECONDS: Final = 1.0

_kept: tuple[float, dict[str, str]] | None = None


@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the event log and the channel layer answer, 503 if not or when stopping.

    The body is JSON such as `{"ready": false, "log": "ok", "layer": "ConnectionError"}`, with
    `"timeout"` for what did not answer within two seconds. For load balancers: open to everybody,
    and looked up once a second at most.
    """
    found = await _probed()
    ready = not Hub.draining and set(found.values()) == {"ok"}
    body: dict[str, Any] = {"ready": ready, **found}
    if Hub.draining:
        body["stopping"] = True
    return JsonResponse(body, status=200 if ready else 503, headers={"Cache-Control": "no-store"})


async def _probed() -> dict[str, str]:
    global _kept
    if _kept is None or time.monotonic() - _kept[0] > KEPT_SECONDS:
        log, target = await asyncio.gather(_outcome(probe_log), _outcome(probe_layer))
        _kept = time.monotonic(), {"log": log, "layer": target}
    return _kept[1]


async def _outcome(probe: Callable[[], Awaitable[object]]) -> str:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await probe()
        return "ok"
    except TimeoutError:
        return "timeout"
    except Exception as error:
        return type(error).__name__


async def probe_log() -> None:
    """Ask the event log for something; raises what it raises."""
    await event_log().aheads([GROUP])


async def probe_layer() -> float:
    """Send something through the channel layer; return the seconds that it took."""
    target, group = layer.channel_layer(), layer.layer_group(f"{GROUP}.{secrets.token_hex(4)}")
    channel = await target.new_channel()
    began = time.perf_counter()
    await target.group_add(group, channel)
    try:
        await target.group_send(group, {"type": "sse.probe"})
        await target.receive(channel)
    finally:
        await target.group_discard(group, channel)
    return time.perf_counter() - began
