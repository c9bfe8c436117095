"""Keeping tickets and grants, which open streams, out of access logs."""

from __future__ import annotations

import re
from typing import Any, Final

_SECRET: Final = re.compile(rb"(?:(?<=&)|(?<=\?)|\A)(ticket|grant)=[^&]*")
_HIDDEN: Final = rb"\1=hidden"


def hide(scope: dict[str, Any], send: Any) -> dict[str, Any]:
    """Return `scope` for the application, and take what is secret from what the server logs.

    Servers log from the scope they made (uvicorn), or from an object of their own, which Daphne's
    `send` leads to. Whatever can't be found stays as it is.
    """
    query = scope.get("query_string", b"")
    if not _SECRET.search(query):
        return scope
    own = dict(scope)
    scope["query_string"] = _SECRET.sub(_HIDDEN, query)
    request: Any = next(iter(getattr(send, "args", ())), None)
    uri = getattr(request, "uri", None)
    if isinstance(uri, bytes):
        request.uri = _SECRET.sub(_HIDDEN, uri)
    return own
