"""`Refused`: a request that gets an error in place of what it asks for."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """Ends the handling of a request with `status`, a message for its sender, and `headers`.

    The message is a text, or what else JSON can hold where the answer is JSON.
    """

    def __init__(
        self, status: int, message: object, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}
