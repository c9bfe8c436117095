"""Which ASGI server serves a request, and what it offers beyond ASGI. Changes no server."""

from __future__ import annotations

import inspect
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import CellType
from typing import Any, Final

from ...runtime.telemetry import log_fields

#: How many objects lie between hypercorn's `send` and its connection.
STEPS: Final = 3
NAMES: Final = frozenset({"daphne", "uvicorn", "hypercorn", "granian"})
#: The names of the functions that these servers pass as `send`.
SENDS: Final = frozenset({"handle_reply", "send", "app_send"})
#: How many functions are looked at, at most, to find the server's behind wrappers.
MOST: Final = 64

logger = logging.getLogger("sse_app")

_warned: set[str] = set()


def own_send(send: Any) -> Any:
    """Return the server's own `send`, also where a wrapper hides it; else return `send`.

    Error reporters and tracers wrap the application, and pass a function in place of `send` that
    calls it. That function refers to it by a closure, or by the arguments of a `partial`. A method
    is not searched: its object may change the body, as a compressing middleware does.
    """
    waiting, seen = deque([send]), 0
    while waiting and seen < MOST:
        function = waiting.popleft()
        seen += 1
        if _server_of(function) and getattr(_plain(function), "__name__", "") in SENDS:
            return function
        waiting.extend(_called_by(function))
    return send


def _called_by(function: Any) -> Iterable[Any]:
    if isinstance(function, partial):
        return [function.func, *filter(callable, (*function.args, *function.keywords.values()))]
    # An empty cell has no contents: the wrapper has not assigned the variable yet.
    cells = [cell for cell in getattr(function, "__closure__", None) or () if cell != CellType()]
    return [cell.cell_contents for cell in cells if callable(cell.cell_contents)]


def _plain(function: Any) -> Any:
    return function.func if isinstance(function, partial) else function


def _server_of(send: Any) -> str:
    """Return the package of the server; empty for an unknown one."""
    function = _plain(send)
    name = type(getattr(function, "__self__", function)).__module__.partition(".")[0]
    return name if name in NAMES else ""


def name_of(send: Any) -> str:
    """Return the server and its version, as in "daphne 4.2.3"; empty for an unknown one."""
    name = _server_of(send)
    try:
        return f"{name} {version(name)}" if name else ""
    except PackageNotFoundError:
        return ""


def is_served(send: Any) -> bool:
    """Whether `send` comes from a known server, and not from a test."""
    return bool(_server_of(send)) or runs_daphne()


def runs_daphne() -> bool:
    """Whether Daphne serves this process, also where a wrapper hides its `send`."""
    module = sys.modules.get("daphne.server")
    return module is not None and bool(module.reactor.running)  # Only Daphne runs this reactor.


def daphne_of(send: Any) -> Any | None:
    """Return Daphne's `Server` if `send` comes from Daphne, else None."""
    module = sys.modules.get("daphne.server")
    if module is None or not isinstance(send, partial):
        return None
    server = getattr(send.func, "__self__", None)
    return server if isinstance(server, module.Server) else None


def daphne_request(send: Any) -> Any | None:
    """Return Daphne's request if `send` leads to a request that is known well enough, else None."""
    if daphne_of(send) is None or not send.args:
        return None
    request = send.args[0]
    needed = (
        *("channel", "content", "application_queue", "write", "sentLength"),
        *("registerProducer", "unregisterProducer"),
    )
    return request if all(hasattr(request, name) for name in needed) else None


def abort_of(send: Any, scope: Mapping[str, Any]) -> Callable[[], None] | None:
    """Return a function that drops a request's connection, or None.

    `send` must lead to an `asyncio.Transport`. uvicorn's `send` is a method of an object that has
    the transport. hypercorn's `send` is a method of an object with another `send`, and so on up to
    the connection's `writer`. None over HTTP/2, where other responses share the connection.
    """
    if not str(scope.get("http_version", "")).startswith("1"):
        return None
    for _ in range(STEPS):
        owner = getattr(send, "__self__", None)
        transport = getattr(getattr(owner, "writer", owner), "transport", None)
        if callable(getattr(transport, "abort", None)):
            return partial(drop, transport)
        send = getattr(owner, "send", None)
    return None


def drop(transport: Any) -> None:
    """Close a connection immediately, and discard the system's send buffer."""
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def stopped_of(send: Any) -> Callable[[], Awaitable[Any]] | None:
    """Return a function to await the stop of the server, if `send` is hypercorn's, else None.

    Its workers get no signal: their parent notifies them, and they set an event of all requests.
    """
    context = getattr(getattr(send, "__self__", None), "context", None)
    wait: Any = getattr(getattr(context, "terminated", None), "wait", None)
    return wait if inspect.iscoroutinefunction(wait) else None


def warn_of_options(send: Any) -> None:
    """Log, once per process, options of Daphne that do not work with streams.

    A system check can't see them, because they are on the command line of the server process.
    """
    server = daphne_of(send)
    if server is None:
        return
    timeout = getattr(server, "http_timeout", None)
    if timeout:
        warn(
            "http_timeout",
            f"Daphne runs with --http-timeout {timeout}, which ends every stream after {timeout} "
            "seconds. Remove the option.",
        )
    if getattr(server, "proxy_forwarded_address_header", None):
        warn(
            "proxy_headers",
            "Daphne runs with --proxy-headers and trusts the left-most address, which clients can "
            "forge, so limits by address don't hold. Remove the option and set "
            "SSE_APP['TRUSTED_PROXIES'].",
        )


def warn_if_hidden(send: Any) -> None:
    """Log, once per process, that a wrapper hides Daphne's `send` from `own_send()`."""
    if runs_daphne() and daphne_of(send) is None:
        warn(
            "wrapper",
            "A wrapper around event_stream_application() hides Daphne's send: readers that take "
            "nothing are noticed late, and what waits for them is kept in memory. Wrap Django's "
            "application in place of the whole: in asgi.py, application = "
            "event_stream_application(Wrapper(get_asgi_application())).",
        )


def warn(option: str, text: str) -> None:
    """Log `text` once per process."""
    if option not in _warned:
        _warned.add(option)
        logger.warning(text, extra=log_fields(reason=option))
