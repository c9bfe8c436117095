"""What others see of a member: a name, and a small value of the project's own.

Asked once per join, in the thread of the pass. Private.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from ..access.authorization import policy
from ..conf import settings, within_namespace
from ..protocol.events import to_text
from ..protocol.groups import namespace_of, own_name
from ..runtime.rare_logs import RareLog
from ..runtime.telemetry import log_fields

MOST_NAME: Final = 255
#: The most bytes of the JSON: each join sends it to all readers of the group.
MOST_BYTES: Final = 1024

_failed_log = RareLog(logging.getLogger("sse_app"), logging.ERROR)


def described(user: Any, group: str) -> tuple[str, str]:
    """Return the name of `user` in `group`, and JSON, "" for none. See `PRESENCE_DATA`.

    If the project's function fails, or returns anything else than a name or a name and small JSON,
    that is logged, and the name is the default.
    """
    try:
        function = policy("PRESENCE_DATA")
        if function is None:
            return default_name(user), ""
        with within_namespace(namespace_of(group)):
            return _checked(function(user, own_name(group)))
    except Exception as error:
        _failed_log(
            "SSE_APP['PRESENCE_DATA'] = %r failed for the group %s, so the member has the default "
            "name: %r",
            settings().PRESENCE_DATA,
            group,
            error,
            exc_info=True,
            extra=log_fields(group=group, error=error),
        )
        return default_name(user), ""


def default_name(user: Any) -> str:
    """Return the full name or the user name, whichever is no e-mail address, else the key."""
    full_name = getattr(user, "get_full_name", str)
    names = (str(full_name()).strip(), str(user.get_username()).strip())
    return next((name for name in names if name and "@" not in name), str(user.pk))[:MOST_NAME]


def _checked(returned: object) -> tuple[str, str]:
    name, data = (
        returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    )
    if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME:
        raise TypeError(
            f"it returned {returned!r}; it must return a name of 1 to {MOST_NAME} characters, or "
            "a tuple of a name and a value for JSON"
        )
    to_text(name)
    text = "" if data is None else to_text([data])[1:-1]
    if len(text.encode()) > MOST_BYTES:
        raise ValueError(
            f"its value has {len(text.encode())} bytes of JSON, more than {MOST_BYTES}"
        )
    return name, text


def parsed(data: str) -> Any:
    """Return the value of the JSON in a row; None for none."""
    return json.loads(data) if data else None
