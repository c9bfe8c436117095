"""Settings of Django's that templates of projects turn on, each with all that the app answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .projects import Host, Visitor

pytestmark = pytest.mark.project

SETTINGS: dict[str, dict[str, Any]] = {
    "the settings of startproject": {},
}


@pytest.fixture(scope="module", params=SETTINGS)
def host(request: pytest.FixtureRequest, make_host: Callable[..., Host]) -> Host:
    return make_host(**SETTINGS[request.param])


@pytest.fixture
def visitor(host: Host) -> Iterator[Visitor]:
    with Visitor(host) as visitor:
        visitor.enter()
        yield visitor


def test_a_saved_row_reaches_the_stream_of_a_signed_page(visitor: Visitor) -> None:
    with visitor.listen(visitor.stream_of()) as stream:
        assert stream.status == 200
        assert stream.next().json()["groups"] == ["orders"]
        assert visitor.post("/save/", data={"status": "paid"}).status_code == 200
        assert stream.until("order.created").json()["fields"] == {"status": "paid"}
