"""`Refused`: the answer to a request is an error."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """Ends the handling of a request with `status`, a message for the client, and `headers`.

    The message is a text; where the answer is JSON, any value that JSON can hold.
    """

    def __init__(
        self, status: int, message: object, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}
