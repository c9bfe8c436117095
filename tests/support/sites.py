"""A server and its visitors with their cookies."""

from __future__ import annotations

from typing import Any

import httpx

from .parser import Parser
from .patience import PATIENCE
from .servers import Daphne

USERS = ("anonymous", "ann", "bob", "staff")


class Site:
    """A server, and its visitors with their cookies."""

    def __init__(self, daphne: Daphne) -> None:
        self.daphne = daphne
        self.visitors: dict[str, httpx.Client] = {}
        self.keys: dict[str, int] = {}
        for name in USERS:
            self.visitors[name] = httpx.Client(base_url=daphne.url, timeout=PATIENCE)
            if name != "anonymous":
                form = {"name": name}
                self.keys[name] = self.visitors[name].post("/test/login/", data=form).json()["pk"]

    def run(self, code: str) -> Any:
        answer = self.visitors["anonymous"].post("/test/run/", data={"code": code})
        assert answer.status_code == 200, answer.text[:300]
        return answer.json()["result"]

    def url(self, name: str, *groups: str) -> str:
        """Return the stream's URL as a page has it that was rendered for the visitor."""
        quoted = " ".join(f'"{group}"' for group in groups)
        page = self.visitors[name].get("/test/page/", params={"tag": f"{{% sse_url {quoted} %}}"})
        assert page.status_code == 200, page.text[:300]
        return page.text

    def post(self, name: str, path: str, body: Any, **options: Any) -> httpx.Response:
        visitor = self.visitors[name]
        if "csrftoken" not in visitor.cookies:
            visitor.get("/")
        headers = {"X-CSRFToken": visitor.cookies["csrftoken"], "Referer": self.daphne.url}
        return visitor.post(f"/events/{path}/", json=body, headers=headers, **options)

    def listen(self, name: str, url: str, **options: Any) -> tuple[int, str]:
        """Return the status, and the name and reason of the first event if there is one."""
        with self.visitors[name].stream("GET", url, **options) as answer:
            if answer.status_code != 200:
                return answer.status_code, ""
            parser = Parser()
            for chunk in answer.iter_raw():
                parser.feed(chunk)
                if parser.events:
                    first = parser.events[0]
                    return 200, first.json().get("reason", first.name)
        return 200, "nothing"

    def close(self) -> None:
        for visitor in self.visitors.values():
            visitor.close()
