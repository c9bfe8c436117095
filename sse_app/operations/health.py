"""`GET health/`: may this process get traffic? Its probes are those of `sse_doctor` too."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from ..conf import channel_layer, site_tag
from ..delivery.hub import Hub, running_hubs
from ..eventlog import event_log
from ..protocol.groups import layer_group
from ..runtime.services import SharedTasks, spawn

#: The group that probes use; nobody else does.
GROUP: Final = "doctor"
PROBE_SECONDS: Final = 2.0
#: Whoever asks, nothing is probed more often than this.
KEPT_SECONDS: Final = 1.0

_kept: tuple[float, dict[str, str]] | None = None
_probing = SharedTasks()


@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the event log and the channel layer answer, 503 if not or when stopping.

    The body is JSON such as `{"ready": false, "log": "ok", "layer": "ConnectionError"}`, with
    `"timeout"` for what did not answer within two seconds. 503 too while a service of a hub is
    down, with `"services": {"revalidator": "KeyError"}`. For load balancers: open to everybody,
    and the log and the layer are probed once a second at most.
    """
    found, down = await probed(), services_down()
    ready = not Hub.draining and not down and set(found.values()) == {"ok"}
    body: dict[str, Any] = {"ready": ready, **found}
    if down:
        body["services"] = down
    if Hub.draining:
        body["stopping"] = True
    return JsonResponse(body, status=200 if ready else 503, headers={"Cache-Control": "no-store"})


def services_down() -> dict[str, str]:
    """Return the services of this process's hubs that are down, each with its last exception."""
    return {name: error for hub in running_hubs() for name, error in hub.services.down.items()}


async def probed() -> dict[str, str]:
    """Return "ok" or what is wrong, for `"log"` and `"layer"`; at most a second old."""
    if _kept is not None and time.monotonic() - _kept[0] <= KEPT_SECONDS:
        return _kept[1]
    return await _probing.result_here(_probe)


async def _probe() -> dict[str, str]:
    global _kept
    log, target = await asyncio.gather(_outcome(probe_log), _outcome(probe_layer))
    found = {"log": log, "layer": target}
    _kept = time.monotonic(), found
    return found


async def _outcome(probe: Callable[[], Coroutine[Any, Any, object]]) -> str:
    task = spawn(probe)
    done, _ = await asyncio.wait([task], timeout=PROBE_SECONDS)
    if not done:
        task.cancel()  # And not waited for: what it would clean up may hang too.
        return "timeout"
    error = task.exception()
    return "ok" if error is None else type(error).__name__


async def probe_log() -> None:
    """Ask the event log for something; raises what it raises."""
    await event_log().aheads([GROUP])


async def probe_layer() -> float:
    """Send something through the channel layer; return the seconds that it took."""
    target = channel_layer()
    group = layer_group(f"{GROUP}.{secrets.token_hex(4)}", site_tag())
    channel = await target.new_channel()
    began = time.perf_counter()
    await target.group_add(group, channel)
    try:
        await target.group_send(group, {"type": "sse.probe"})
        await target.receive(channel)
    finally:
        await target.group_discard(group, channel)
        # The pub/sub layer forgets a channel when waiting for it is given up, and only then.
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await target.receive(channel)
    return time.perf_counter() - began
