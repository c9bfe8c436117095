"""What the ASGI server under a request is, where that matters; nothing here changes it."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import Any

logger = logging.getLogger("sse_app")

_warned: set[str] = set()


def daphne_of(send: Any) -> Any | None:
    """Return Daphne's `Server` if `send` is what Daphne gave the application, else None."""
    module = sys.modules.get("daphne.server")
    if module is None or not isinstance(send, partial):
        return None
    server = getattr(send.func, "__self__", None)
    return server if isinstance(server, module.Server) else None


def daphne_request(send: Any) -> Any | None:
    """Return Daphne's request object if `send` leads to one that can be written to, else None."""
    if daphne_of(send) is None or not send.args:
        return None
    request = send.args[0]
    needed = ("channel", "write", "registerProducer", "unregisterProducer", "sentLength")
    return request if all(hasattr(request, name) for name in needed) else None


def warn_of_options(send: Any) -> None:
    """Log, once per process, the options of a Daphne that do not go with streams.

    No check can see them: they are on the command line of a process that is not there yet.
    """
    server = daphne_of(send)
    if server is None:
        return
    timeout = getattr(server, "http_timeout", None)
    if timeout:
        _warn(
            "http_timeout",
            f"Daphne runs with --http-timeout {timeout}, which ends every stream after so many "
            "seconds. Leave the option out.",
        )
    if getattr(server, "proxy_forwarded_address_header", None):
        _warn(
            "proxy_headers",
            "Daphne runs with --proxy-headers and believes the left-most address, which clients "
            "make up as they like, so limits by address don't hold. Leave the option out and set "
            "SSE_APP['TRUSTED_PROXIES'].",
        )


def _warn(option: str, text: str) -> None:
    if option not in _warned:
        _warned.add(option)
        logger.warning(text)
