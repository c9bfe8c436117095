"""How Daphne receives requests: without parsing forms, and with `root_path` only from its option.

Twisted parses queries and forms on the event loop, into arguments that Daphne never reads: 1 MB of
fields stops all streams for seconds, before the application gets the request. And Daphne takes the
header `Daphne-Root-Path` of any client as ASGI's `root_path`. Django puts that before all links,
and before a relative `STATIC_URL`, where it stays for later requests.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from .servers import daphne_of, runs_daphne, warn

ROOT_PATH: Final = b"Daphne-Root-Path"


def install() -> None:
    """If Daphne is loaded, make it receive requests by `receive()`. Safe to call twice."""
    module = sys.modules.get("daphne.http_protocol")
    if module is None:
        return
    kind = module.WebRequest
    if kind.requestReceived is receive:
        return
    if kind.requestReceived is not module.http.Request.requestReceived:
        warn(
            "requests",
            "This Daphne has a requestReceived() that the app does not know, so it is not changed: "
            "forms may be parsed on the event loop, where a large form stops all streams. Limit "
            "the size of request bodies in the proxy.",
        )
        return
    kind.requestReceived = receive


def receive(request: Any, command: bytes, target: bytes, version: bytes) -> None:
    """Replace Twisted's `Request.requestReceived()`.

    Called for all requests to Daphne, also for WebSockets, which begin as a request, and for
    applications that `event_stream_application()` does not wrap.
    """
    request.content.seek(0)
    request.method, request.uri, request.clientproto = command, target, version
    request.path, request.args = target.partition(b"?")[0], {}
    if request.requestHeaders.hasHeader(ROOT_PATH):
        request.requestHeaders.removeHeader(ROOT_PATH)
        warn(
            "root_path",
            f"A request had the header {ROOT_PATH.decode()}, which is ignored: any client can send "
            "it. Give Daphne the mount point by --root-path, and let the proxy remove the header.",
        )
    request.process()


def correct(scope: dict[str, Any], send: Any) -> None:
    """Set `root_path` to Daphne's option, for a request received before `install()`."""
    server = daphne_of(send)
    if server is not None or runs_daphne():
        install()
    if server is not None:
        scope["root_path"] = server.root_path
