"""Pages that send messages to the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from sse_app import off, on

URL = "/events/send/"
EVENT = "test.event"


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Register handlers for `EVENT` until the test ends."""
    registered: list[Callable[..., Any]] = []

    def register(handler: Callable[..., Any]) -> None:
        registered.append(on(EVENT)(handler))

    yield register
    for handler in registered:
        off(EVENT, handler)


class Page:
    """A client that checks CSRF as a browser would meet it."""

    def __init__(self, user: User | None = None) -> None:
        self.client = Client(enforce_csrf_checks=True)
        if user is not None:
            self.client.force_login(user)
        self.client.get("/login/")
        self.token = self.client.cookies["csrftoken"].value

    def send(self, group: Any = "orders", event: Any = EVENT, data: Any = None) -> Any:
        return self.post(json.dumps({"group": group, "event": event, "data": data}))

    def post(self, body: str | bytes, content_type: str = "application/json") -> Any:
        headers = {"X-CSRFToken": self.token}
        return self.client.post(URL, body, content_type=content_type, headers=headers)
