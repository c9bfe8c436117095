"""How Daphne receives requests: without parsing their forms, and on the mount point of its option.

Twisted parses queries and forms on the event loop, into arguments that Daphne never reads: 1 MB of
fields stops every stream for seconds, before any application is asked. And Daphne takes the header
`Daphne-Root-Path` of any client as ASGI's `root_path`, which Django puts before all links and
before a relative `STATIC_URL`, and keeps there.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from .servers import daphne_of, warn

ROOT_PATH: Final = b"Daphne-Root-Path"


def install() -> None:
    """Let Daphne, where it is loaded, receive its requests by `receive()`. Safe to call twice."""
    module = sys.modules.get("daphne.http_protocol")
    if module is None:
        return
    kind = module.WebRequest
    if kind.requestReceived is receive:
        return
    if kind.requestReceived is not module.http.Request.requestReceived:
        warn(
            "requests",
            "This Daphne receives requests in a way of its own, so it is left as it is: forms may "
            "be parsed on the event loop, where a large one stops every stream. Limit the size of "
            "bodies in the proxy.",
        )
        return
    kind.requestReceived = receive


def receive(request: Any, command: bytes, target: bytes, version: bytes) -> None:
    """Take the place of Twisted's `Request.requestReceived()`, for an application that reads ASGI.

    It also covers WebSockets, which begin as such a request, and applications that
    `event_stream_application()` does not wrap.
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
    """Set `root_path` to Daphne's own option, for what was received before `install()`."""
    server = daphne_of(send)
    if server is not None:
        install()
        scope["root_path"] = server.root_path
