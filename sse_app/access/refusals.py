"""`Refused`: the answer to a request is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Refused(Exception):
    """Ends the handling of a request with `status`, a message for the client, and `headers`.

    The message is a text; where the answer is JSON, any value that JSON can hold. `hint` says to
    the developer how to permit the request: the client gets it while DEBUG is on.
    """

    def __init__(
        self,
        status: int,
        message: object,
        headers: Mapping[str, str] | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}
        self.hint = hint


def not_granted(user: object, groups: Iterable[str]) -> str:
    """Return what a developer can do if `user` has no right to listen to `groups`."""
    return (
        f"{user} may not listen to {', '.join(groups)}: add the groups to "
        "SSE_APP['PUBLIC_GROUPS'], sign them for the page with {% sse_url %}, or let "
        "SSE_APP['MAY_LISTEN'] permit them."
    )
