"""Policies: only `True` grants, however it comes about and wherever it is asked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.test import RequestFactory

from sse_app import group_name
from sse_app.access import authorization
from sse_app.access.authorization import (
    active_or_anonymous,
    has_permission,
    is_granted,
    is_true,
    may_listen,
    may_speak,
)
from sse_app.access.grants import Grant
from sse_app.consumers import EventStreamConsumer
from sse_app.operations.dashboard.admin import LiveStreamsAdmin
from sse_app.publishing.inbox import Message
from sse_app.testing import stream
from sse_app.views import metrics

from .. import policies
from ..support.senders import Page
from ..support.servers import Daphne
from ..support.visitors import Visitor

pytestmark = pytest.mark.django_db(transaction=True)

RIGHT = [
    *("sync_yes", "async_yes", "wrapped", "partial", "partial_of_async", "async_object"),
    *("partial_of_object", "wrapped_sync", "returns_an_awaitable", "returns_a_coroutine"),
]
WRONG = {
    "one": "builtins.int",
    "text": "builtins.str",
    "like_numpy": "tests.policies.NumpyBool",
    "nothing": "builtins.NoneType",
    "a_function": "builtins.function",
    "a_list": "builtins.list",
    "a_future": "concurrent.futures._base.Future",
    "Instance": "tests.policies.Instance",
    "generates": "builtins.async_generator",
}


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the app logs; nothing was logged before."""
    logger = logging.getLogger("sse_app")
    logger.addHandler(caplog.handler)
    authorization._faulty.clear()
    yield caplog
    logger.removeHandler(caplog.handler)


def use(settings: Any, key: str, name: str) -> None:
    settings.SSE_APP = {key: f"tests.policies.{name}"}


@pytest.mark.parametrize("name", RIGHT)
async def test_what_a_policy_comes_to_is_awaited(settings: Any, name: str) -> None:
    use(settings, "MAY_LISTEN", name)
    async with stream(None, "group=yes") as events:
        assert events.status == 200
        assert events.opened is not None
    async with stream(None, "group=no") as events:
        assert events.status == 403


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_true_and_is_not_true_is_refused_and_told_once(
    settings: Any, log: pytest.LogCaptureFixture, name: str
) -> None:
    use(settings, "MAY_LISTEN", name)
    for _ in range(3):
        async with stream(None, "group=yes") as events:
            assert events.status == 403
    (told,) = [record for record in log.records if record.levelno == logging.ERROR]
    assert f"tests.policies.{name} returned" in told.getMessage()
    assert f"the type {WRONG[name]}," in told.getMessage()


async def test_a_policy_that_finds_nothing_by_next_is_an_error_and_no_silence(
    settings: Any,
) -> None:
    use(settings, "MAY_LISTEN", "finds_nothing")
    async with stream(None, "group=yes") as events:
        assert (await events.next()).json() == {"reason": "policy"}


@pytest.mark.parametrize("name", [*RIGHT, *WRONG])
def test_who_may_speak_is_decided_likewise(
    settings: Any, handled: Any, log: pytest.LogCaptureFixture, name: str
) -> None:
    use(settings, "MAY_SPEAK", name)
    handled(lambda message: "heard")
    page = Page()
    answers = [page.send(group).status_code for group in ("yes", "yes", "no")]
    assert answers == ([200, 200, 403] if name in RIGHT else [403] * 3)
    told = [record for record in log.records if "only True grants" in record.getMessage()]
    assert len(told) == (name in WRONG)


async def test_over_a_real_server_a_decorated_policy_decides_and_a_truthy_one_does_not(
    make_daphne: Callable[..., Daphne],
) -> None:
    site = make_daphne(MAY_LISTEN="tests.policies.wrapped", MAY_SPEAK="tests.policies.one")
    ann = await Visitor(site, "ann").sign_in()
    async with ann.stream("group=yes"):
        assert await ann.status("/events/?group=no") == 403
    await ann.client.get("/login/")
    headers = {"X-CSRFToken": ann.client.cookies["csrftoken"]}
    body = {"group": "yes", "event": "chat.message"}
    answer = await ann.client.post("/events/send/", json=body, headers=headers)
    assert answer.status_code == 403
    assert site.text().count("tests.policies.one returned an object of the type builtins.int") == 1


def test_a_policy_that_fails_is_no_500(settings: Any, log: pytest.LogCaptureFixture) -> None:
    policy = "tests.policies.finds_nothing"
    settings.SSE_APP = {"MAY_SPEAK": policy, "MAY_LISTEN": policy}
    page = Page()
    headers = {"X-CSRFToken": page.token}
    for path, body in (
        ("send", {"group": "yes", "event": "n"}),
        ("ticket", {"groups": ["yes"]}),
        ("renew", {"grant": Grant.to(None, ["yes"]).sign()}),
    ):
        answer = page.client.post(
            f"/events/{path}/", body, content_type="application/json", headers=headers
        )
        assert (answer.status_code, answer["Retry-After"]) == (503, "5"), path
    assert log.text.count("The policy tests.policies.finds_nothing failed") == 1


# --- other places where something true could grant ---


MAIN = threading.main_thread()


class Truthy(EventStreamConsumer):
    """A project's own, with an answer that is true."""

    async def authorize(self, user: Any, groups: Any, request: Any) -> Any:
        return ["of", "course"]


class Sync(EventStreamConsumer):
    """A project's own, without `async`, so it may use the database."""

    def authorize(self, user: Any, groups: Any, request: Any) -> Any:
        return list(groups) == ["yes"] and threading.current_thread() is not MAIN


@pytest.mark.parametrize(("kind", "permitted"), [(Truthy, []), (Sync, ["yes"])])
async def test_a_consumer_of_a_projects_own_grants_by_true(
    kind: type[EventStreamConsumer], permitted: list[str]
) -> None:
    consumer = kind()
    consumer.scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    for group in ("yes", "no"):
        request = consumer._request()
        answer = await consumer._may_listen(AnonymousUser(), [group], request)
        assert answer is (group in permitted)


class Permissive:
    """A user of a package of its own, whose answers are all true."""

    is_active = is_staff = is_authenticated = True

    async def has_perm(self, permission: str) -> bool:
        return False


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_permission_that_is_a_coroutine_is_none(log: pytest.LogCaptureFixture) -> None:
    request = RequestFactory().get("/events/metrics/")
    request.user = Permissive()  # type: ignore[assignment]
    assert not has_permission(request.user, "sse_app.end_streams")
    assert not metrics._is_permitted(request)
    assert "Permissive.has_perm returned an object of the type builtins.coroutine" in log.text


def test_a_staff_flag_that_is_a_method_is_none() -> None:
    class Methods(Permissive):
        def is_staff(self) -> bool:  # type: ignore[override]
            return False

        def has_perm(self, permission: str) -> bool:  # type: ignore[override]
            return True

    request = RequestFactory().get("/events/metrics/")
    request.user = Methods()  # type: ignore[assignment]
    assert not metrics._is_permitted(request)


@pytest.mark.filterwarnings("ignore:coroutine")
def test_an_admin_site_whose_answer_is_a_coroutine_shows_no_dashboard() -> None:
    class Site:
        async def has_permission(self, request: HttpRequest) -> bool:
            return False

    dashboard = LiveStreamsAdmin.__new__(LiveStreamsAdmin)
    dashboard.admin_site = Site()  # type: ignore[assignment]
    assert not dashboard._permits(RequestFactory().get("/"))


def test_a_handler_behind_a_plain_decorator_is_awaited(handled: Any, settings: Any) -> None:
    async def handle(message: Message) -> Any:
        return {"said": message.data}

    settings.SSE_APP = {"MAY_SPEAK": "tests.policies.sync_yes"}
    handled(policies.plainly(handle))
    answer = Page().send("yes", data=1)
    assert (answer.status_code, answer.json()) == (200, {"said": 1})


# --- inactive users ---


def test_an_inactive_user_is_a_stranger_to_policies(settings: Any) -> None:
    user = User.objects.create(username="ann", is_active=False)
    request = RequestFactory().get("/")
    assert active_or_anonymous(user).is_anonymous
    assert active_or_anonymous(None).is_anonymous
    for policy in (None, "tests.policies.by_permission"):
        settings.SSE_APP = {"MAY_LISTEN": policy, "PUBLIC_GROUPS": ["orders"]}
        ask = async_to_sync(may_listen)
        assert not ask(user, [f"user.{user.pk}"], request)
        assert ask(user, ["orders"], request)
        assert not may_speak(user, "orders", "n", request)


def test_only_a_bool_is_an_answer() -> None:
    assert is_true("a", True)
    assert not is_true("a", False)
    assert not is_true("a", 1)


def test_a_user_by_e_mail_has_a_group() -> None:
    user = User(pk=5, username="ann")
    user.pk = "ann@example.com"  # type: ignore[assignment]  # as of another user model
    assert is_granted(user, [group_name("user.ann@example.com")])
    assert not is_granted(user, [group_name("user.bob@example.com")])
