"""`GET health/`: whether this process can get traffic. `sse_doctor` uses the same probes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from ..delivery.hub import Hub, check_interval, running_hub, running_hubs
from ..delivery.mailbox import Mailbox
from ..eventlog import event_log
from ..protocol.headers import NO_STORE
from ..runtime.callables import in_thread
from ..runtime.forks import at_fork
from ..runtime.services import SharedTasks, spawn
from ..runtime.threads import Threads, ThreadsBusy, is_serving, is_testing
from ..runtime.transactions import non_atomic

#: The group of the probes.
GROUP: Final = "doctor"
PROBE_SECONDS: Final = 2.0
#: A result is kept this long, so that many requests cause one probe.
KEPT_SECONDS: Final = 1.0
#: A check of the log may begin a whole interval after the last one, and then take this long.
LATE_SECONDS: Final = 10.0

_kept: tuple[float, dict[str, str]] | None = None
_probing = SharedTasks()
_threads = Threads(1)


@non_atomic
@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the event log and the channel layer answer, else 503.

    The body is JSON such as `{"ready": false, "log": "ok", "layer": "ConnectionError"}`; no answer
    within two seconds is `"timeout"`. While the process has streams, `"hub"` is the same for its
    hub, which reads the log in other threads than a probe, and `"hub_checked"` is the age of the
    hub's last successful check of the log, in seconds. The answer is also 503 while a service of a
    hub is down, with `"services": {"revalidator": "KeyError"}`, and while the server stops, with
    `"stopping": true`. `"delay": 12.5` says for how many seconds events of a group wait that
    another session of the database has locked; other groups, and the readiness, do not depend on
    it. For load balancers: open to everybody. The log and the layer are probed once a second at
    most.
    """
    return await _readiness()


async def answer_health(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Answer a GET or HEAD as an ASGI application, in front of Django's own.

    A load balancer names an address in place of a host, and speaks plain HTTP: Django's handler
    would answer 400 by `ALLOWED_HOSTS`, or redirect by `SECURE_SSL_REDIRECT`.
    """
    response = await _readiness()
    body = b"" if scope["method"] == "HEAD" else response.content
    response["Content-Length"] = str(len(response.content))
    headers = [(name.encode(), value.encode()) for name, value in response.items()]
    status = response.status_code
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _readiness() -> HttpResponse:
    found, down, age = {**await probed()}, services_down(), hub_checked()
    if age is not None:
        found["hub"] = "ok" if age <= check_interval() + LATE_SECONDS else "timeout"
    ready = not Hub.draining and not down and set(found.values()) == {"ok"}
    body: dict[str, Any] = {"ready": ready, **found}
    if age is not None:
        body["hub_checked"] = round(age, 1)
    if down:
        body["services"] = down
    if Hub.draining:
        body["stopping"] = True
    if delay := event_log().delay():
        body["delay"] = round(delay, 1)
    return JsonResponse(body, status=200 if ready else 503, headers=NO_STORE)


def services_down() -> dict[str, str]:
    """Return the services of this process's hubs that are down, with the names of exceptions."""
    return {name: error for hub in running_hubs() for name, error in hub.services.down.items()}


def hub_checked() -> float | None:
    """Return the seconds since the last successful check of the log, None without a hub.

    Of several hubs, the one whose check is the oldest counts.
    """
    for hub in running_hubs():
        hub.observe_checks()
    ages = [time.monotonic() - hub.checked_at for hub in running_hubs()]
    return max(ages, default=None)


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
    if isinstance(error, TimeoutError | ThreadsBusy):  # Busy with an earlier probe that hangs.
        return "timeout"
    return "ok" if error is None else type(error).__name__


async def probe_log() -> None:
    """Read a head from the event log; raises the log's exceptions, and see `Threads.call()`.

    In a thread of its own: in a shared one it would wait for other calls that hang, and under WSGI
    the request would wait for the probe. Only a test asks in its own thread, which may be within a
    transaction.
    """
    read = partial(event_log().heads, [GROUP])
    if is_serving() or not is_testing():
        await _threads.call("log", PROBE_SECONDS, read)
    else:
        await in_thread(read)


async def probe_layer() -> float:
    """Send a message through the channel layer and receive it; return the seconds.

    By the hub's mailbox; where there is no hub, by a mailbox that lasts until a probe succeeds. So
    probes that get no answer add nothing to the layer.
    """
    if (hub := running_hub()) is not None:
        return await hub.mailbox.probe()
    loop = asyncio.get_running_loop()
    own = _mailboxes.get(loop)
    if own is None:
        own = _mailboxes[loop] = _OwnMailbox()
    seconds = await own.mailbox.probe()
    if _mailboxes.pop(loop, None) is own:
        await own.close()
    return seconds


class _OwnMailbox:
    """A mailbox without groups, and the task that receives for it."""

    def __init__(self) -> None:
        self.mailbox = Mailbox(lambda: (), lambda event: 0, _nothing)
        self._receiving = spawn(self.mailbox.receive)

    async def close(self) -> None:
        self._receiving.cancel()
        await asyncio.wait([self._receiving])
        await self.mailbox.close()


async def _nothing() -> None:
    """The mailbox has no events that could be missing."""


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _OwnMailbox] = WeakKeyDictionary()

at_fork(_mailboxes.clear)
