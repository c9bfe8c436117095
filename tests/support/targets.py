"""A server under attack, and what it must keep secret."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import local
from typing import Any

import httpx

from .hostility import Secrets
from .parser import Parser
from .patience import PATIENCE
from .raw_http import Answer, Connection, Request
from .servers import Daphne

TRACES = ("Traceback", 'File "/', "sse_app/", "site-packages")


SETUP = """
from datetime import timedelta
from django.contrib.auth.models import User
from sse_app.access.grants import Grant
from sse_app.access.tickets import issue
from sse_app.access.tokens import create_token
ann = User.objects.get(username="ann")
day = timedelta(days=1)
token = create_token("t", listen=["clock"], publish=["chat.*"], events=["n"], lifetime=day)[1]
result = [Grant.to(ann, ["order.1"]).sign(), issue(ann, ["clock"]), token]
"""


class Target:
    """A server, what it keeps secret, and everything that was sent there."""

    def __init__(self, daphne: Daphne) -> None:
        self.daphne = daphne
        self.sent = self.answered = 0
        self.statuses: set[int] = set()
        self._mine = local()
        with httpx.Client(base_url=daphne.url, timeout=PATIENCE) as client:
            client.post("/test/login/", data={"name": "ann"})
            client.get("/")
            self.secrets = self._secrets(client)

    def _secrets(self, client: httpx.Client) -> Secrets:
        session, csrf = client.cookies["sessionid"], client.cookies["csrftoken"]
        cookie = f"sessionid={session}; csrftoken={csrf}".encode()
        made = client.post("/test/run/", data={"code": SETUP}).json()["result"]
        return Secrets(((b"Cookie", cookie), (b"X-CSRFToken", csrf.encode())), *made)

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.daphne.url}/test/{path}/", timeout=PATIENCE).json()

    def ask(self, request: Request) -> Answer | None:
        """Send it on this thread's connection, and look at what comes back."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = Connection(self.daphne.port)
        answer: Answer | None = self._mine.connection.ask(request)
        self.sent += 1
        if answer is not None:
            self.answered += 1
            self.statuses.add(answer.status)
            check(request, answer)
        return answer

    def ask_all(self, many: list[Request]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.ask, many))


def check(request: Request, answer: Answer) -> None:
    """Nothing of ours is a 5xx or shows its inside, and every stream begins with a word of ours."""
    told = f"{request.raw[:300]!r}: {answer.status} {answer.body[:300]!r}"
    assert 200 <= answer.status < 500, told
    shown = answer.body.replace(b"/static/sse_app/", b"")  # The address of the page's script.
    assert not any(trace.encode() in shown for trace in TRACES), told
    assert "\n" not in "".join(answer.headers.values()), told
    if answer.is_stream and answer.body:
        parser = Parser()
        parser.feed(answer.body)
        first = parser.events[0].name
        assert first in ("sse.open", "sse.busy", "sse.close", "tick"), told
