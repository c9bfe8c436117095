"""`GET health/`: whether this process can get traffic. `sse_doctor` uses the same probes."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from ..conf import channel_layer, site_tag
from ..delivery.hub import Hub, running_hubs
from ..eventlog import event_log
from ..protocol.groups import layer_group
from ..runtime.services import SharedTasks, spawn

#: The group of the probes.
GROUP: Final = "doctor"
PROBE_SECONDS: Final = 2.0
#: A result is kept this long, so that many requests cause one probe.
KEPT_SECONDS: Final = 1.0

_kept: tuple[float, dict[str, str]] | None = None
_probing = SharedTasks()


@transaction.non_atomic_requests  # With ATOMIC_REQUESTS, Django refuses async views.
@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the event log and the channel layer answer, else 503.

    The body is JSON such as `{"ready": false, "log": "ok", "layer": "ConnectionError"}`; no answer
    within two seconds is `"timeout"`. The answer is also 503 while a service of a hub is down, with
    `"services": {"revalidator": "KeyError"}`, and while the server stops, with `"stopping": true`.
    `"delay": 12.5` says for how many seconds events of a group wait that another session of the
    database has locked; other groups, and the readiness, do not depend on it.
    For load balancers: open to everybody. The log and the layer are probed once a second at most.
    """
    found, down = await probed(), services_down()
    ready = not Hub.draining and not down and set(found.values()) == {"ok"}
    body: dict[str, Any] = {"ready": ready, **found}
    if down:
        body["services"] = down
    if Hub.draining:
        body["stopping"] = True
    if delay := event_log().delay():
        body["delay"] = round(delay, 1)
    return JsonResponse(body, status=200 if ready else 503, headers={"Cache-Control": "no-store"})


def services_down() -> dict[str, str]:
    """Return the services of this process's hubs that are down, with the names of exceptions."""
    return {name: error for hub in running_hubs() for name, error in hub.services.down.items()}


async def probed() -> dict[str, str]:
    """Return "ok" or the problem, for `"log"` and `"layer"`. At most a second old."""
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
        task.cancel()  # Not awaited, since its clean-up may hang too.
        return "timeout"
    error = task.exception()
    return "ok" if error is None else type(error).__name__


async def probe_log() -> None:
    """Read a head from the event log; raises the log's exceptions."""
    await event_log().aheads([GROUP])


async def probe_layer() -> float:
    """Send a message through the channel layer and receive it; return the seconds."""
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
        # The pub/sub layer deletes a channel only when a receive() of it is cancelled.
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await target.receive(channel)
    return time.perf_counter() - began
