"""The landing page: live panes, and buttons that cause the problems of a day in production.

Anybody may press a button, so each action runs once at a time and has a rate, per server process.
"""

import os
import secrets
import signal
import threading
from collections.abc import Callable
from functools import wraps
from typing import Final

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from project import orders as shop
from project.clients import clients_passed
from project.models import Order
from sse_app import cursor, publish, publish_many
from sse_app.eventlog import event_log
from sse_app.operations.reports import streams as open_streams
from sse_app.views.throttle import TokenBuckets

GROUP: Final = "showcase"
SLOW_GROUP: Final = "showcase.slow"
#: With a browser's name: a group of its shared connection, and a group of its slow reader, by which
#: the server can recognise them. Nothing is ever published to these groups.
TABS_GROUP: Final = "showcase.tabs.{}"
READER_GROUP: Final = "showcase.reader.{}"
BURST: Final = 200
#: 18 MB in all. Linux lets the buffers of one connection grow to 8 MB on a quick start, and
#: Chromium reads 2 MB ahead of its page. The server notices a slow reader only after these.
SLOW_BURST: Final = 300
SLOW_BYTES: Final = 60_000
RESTART_EVENTS: Final = 50
MOST_ORDERS: Final = 60
#: The answer has to be sent before the server ends.
RESTART_SECONDS: Final = 0.2
#: The environment variable with the process id of the demo's runner.
RUNNER: Final = "DEMO_RUNNER"

View = Callable[[HttpRequest], HttpResponse]

buckets: Final = TokenBuckets()


def bounded(*, seconds: float, burst: int) -> Callable[[View], View]:
    """Limit a view to one call per `seconds` for all clients together, with bursts of `burst`.

    One call runs at a time. A request that comes too early gets 429 and `Retry-After`.
    """

    def decorate(view: View) -> View:
        running = threading.Lock()

        @wraps(view)
        def act(request: HttpRequest) -> HttpResponse:
            if not running.acquire(blocking=False):
                return _too_early(1)
            try:
                wait = buckets.take({view.__name__: 1}, rate=1 / seconds, burst=burst)
                return _too_early(int(wait) + 1) if wait else view(request)
            finally:
                running.release()

        return act

    return decorate


def _too_early(seconds: int) -> JsonResponse:
    answer = {"error": f"Other visitors press buttons, too. Try again in {seconds} s."}
    return JsonResponse(answer, status=429, headers={"Retry-After": str(seconds)})


def publish_numbers(group: str, count: int, why: str, padding: str = "") -> str:
    """Publish `count` events, numbered from 1, and return the name of the run they belong to.

    Each event has the number of all, so a page knows which ones it has missed.
    """
    run = secrets.token_hex(4)
    data = {"run": run, "of": count, "why": why, "padding": padding}
    publish_many((group, "showcase.number", data | {"n": n}) for n in range(1, count + 1))
    return run


@require_safe
def showcase(request: HttpRequest) -> HttpResponse:
    """The landing page."""
    context = {
        "position": cursor("orders", GROUP),
        "clients": clients_passed(),
        "burst": BURST,
        "slow_burst": SLOW_BURST,
        "can_restart": _runner() is not None,
    }
    return render(request, "showcase.html", context)


@require_POST
@bounded(seconds=0.5, burst=10)
def save_order(request: HttpRequest) -> HttpResponse:
    """Save a new order, or the next status of the order that has waited longest."""
    shop.clear_delivered(keep=MOST_ORDERS - 1)
    if Order.objects.count() < MOST_ORDERS:
        order = shop.place_order()
    else:
        # No order is delivered, since delivered ones have been deleted.
        order = shop.advance_order(Order.objects.order_by("updated_at").values_list("pk")[0][0])
    return JsonResponse({"order": str(order)}, status=201)


@require_POST
@bounded(seconds=3, burst=5)
def burst(request: HttpRequest) -> HttpResponse:
    """Publish 200 numbered events at once."""
    return JsonResponse({"run": publish_numbers(GROUP, BURST, "burst"), "of": BURST}, status=201)


@require_POST
@bounded(seconds=60, burst=3)
def slow_burst(request: HttpRequest) -> HttpResponse:
    """Publish 18 MB to the slow readers. The demo's retention keeps 60 MB of these at most."""
    run = publish_numbers(SLOW_GROUP, SLOW_BURST, "slow", padding="." * SLOW_BYTES)
    return JsonResponse({"run": run, "of": SLOW_BURST}, status=201)


@require_POST
@bounded(seconds=3, burst=3)
def wipe(request: HttpRequest) -> HttpResponse:
    """Lose the history of the showcase's group, as a restored backup would."""
    # A group without events has no epoch, so a new epoch would reset no stream.
    publish(GROUP, "showcase.last", {"text": "the last event of the old history"})
    event_log().renew_epoch([GROUP])
    return JsonResponse({}, status=201)


@require_POST
@bounded(seconds=10, burst=2)
def restart(request: HttpRequest) -> HttpResponse:
    """Ask the runner to restart this server; only `make demo` has one, and only in DEBUG."""
    runner = _runner()
    if runner is None:
        return JsonResponse({"error": "Only `make demo` restarts its server."}, status=403)
    return LastAnswer(runner)


class LastAnswer(JsonResponse):
    """The server's last answer. The stop is requested only after the answer has been sent."""

    def __init__(self, runner: int) -> None:
        super().__init__({}, status=202)
        self._runner = runner

    def close(self) -> None:
        super().close()
        threading.Timer(RESTART_SECONDS, os.kill, (self._runner, signal.SIGHUP)).start()


def _runner() -> int | None:
    """Return the process id of the runner that started this server, if it still runs."""
    parent = os.getppid()
    return parent if settings.DEBUG and os.environ.get(RUNNER) == str(parent) else None


@require_safe
def seen_by_server(request: HttpRequest) -> JsonResponse:
    """Return the number of this process's streams, and of those of the browser `?browser=`."""
    browser = request.GET.get("browser", "")
    tabs, reader = TABS_GROUP.format(browser), READER_GROUP.format(browser)
    streams = open_streams()
    lagging = [stream.subscription.lagging for stream in streams if reader in stream.groups]
    return JsonResponse(
        {
            "streams": len(streams),
            "shared": sum(tabs in stream.groups for stream in streams),
            "lagging": any(lagging),
        }
    )
