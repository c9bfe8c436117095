"""Sessions are looked at and never changed, whatever keeps them, over real Daphne processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User

from sse_app.access.sessions import live_sessions, name_of, session_by, user_of

from ..selection import first_then_slow
from ..support.patience import PATIENCE
from ..support.servers import Daphne, StreamReader
from ..support.visitors import NEVER, USER, Visitor, farewell, run

BACKENDS = "django.contrib.sessions.backends"
ENGINES = [
    *(f"{BACKENDS}.{name}" for name in ("db", "cache", "cached_db", "file", "signed_cookies")),
    "tests.support.cookie_sessions",
]
OLD, NEW = "an-old-key-" + "o" * 50, "a-new-key-" + "n" * 50

REVIEW = """
from sse_app.access.readers import apply
from sse_app.access.revocations import Revocation
apply(Revocation(review=True))
"""


class Site:
    """A site whose sessions an engine keeps below `folder`, and whose key changes."""

    def __init__(self, make_daphne: Callable[..., Daphne], folder: Path, engine: str) -> None:
        self.make, self.folder = make_daphne, folder
        self.django = {
            "SESSION_ENGINE": engine,
            "SESSION_FILE_PATH": str(folder / "sessions"),
            "CACHES": {
                "default": {
                    "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
                    "LOCATION": str(folder / "cache"),
                }
            },
        }
        (folder / "sessions").mkdir()
        self.daphne = self.start(OLD)

    def start(self, key: str, *older: str, **options: Any) -> Daphne:
        django = self.django | {"SECRET_KEY_FALLBACKS": older}
        return self.make({"SECRET_KEY": key, "TEST_DJANGO": json.dumps(django)}, **options)

    def again(self, visitor: Visitor) -> Visitor:
        """The visitor with the same cookies, at the server that runs now."""
        same = Visitor(self.daphne, visitor.name)
        same.pk = visitor.pk
        same.client.cookies = visitor.client.cookies
        return same

    async def kept(self) -> Any:
        """What is kept of sessions: the rows, and the files with their content."""
        rows = await run(
            self.daphne,
            "from django.contrib.sessions.models import Session\n"
            "result = list(Session.objects.values_list('pk', 'session_data', 'expire_date'))",
        )
        files = {
            str(path): path.read_bytes()
            for path in self.folder.glob("[sc]*/**/*")
            if path.is_file()
        }
        return rows, files


async def whoami(visitor: Visitor) -> int | None:
    pk: int | None = (await visitor.client.get("/test/whoami/")).json()["pk"]
    return pk


@pytest.mark.parametrize("engine", first_then_slow(ENGINES))
async def test_streams_change_no_session_after_the_key_was_rotated(
    make_daphne: Callable[..., Daphne], tmp_path: Path, engine: str
) -> None:
    """What came first would sign the visitor out, if it moved or ended the session."""
    site = Site(make_daphne, tmp_path, engine)
    visitors = [await Visitor(site.daphne, name).sign_in() for name in ("ann", "bob", "cat")]
    site.daphne.stop()
    site.daphne = site.start(NEW, OLD, REVALIDATE_INTERVAL=NEVER)
    ann, bob, cat = (site.again(visitor) for visitor in visitors)
    before = await site.kept()
    if "cookie" not in engine:
        assert before != ([], {}), "something keeps the sessions"

    for _ in range(2):
        async with ann.stream(f"group=user.{ann.pk}"):
            pass
    assert await site.kept() == before
    cookies = dict(ann.client.cookies)
    assert await whoami(ann) == ann.pk
    assert dict(ann.client.cookies) != cookies, "Django moved the session, and said so"
    async with ann.stream(f"group=user.{ann.pk}"):
        assert await whoami(ann) == ann.pk

    # A logout that is what moves the session.
    async with bob.stream(f"group=user.{bob.pk}") as stream:
        await bob.client.get("/test/logout/")
        assert await farewell(stream) == ("auth", 3_600_000)

    # A session that a page moves while a stream of another tab is open.
    async with cat.stream(f"group=user.{cat.pk}") as stream:
        assert await whoami(cat) == cat.pk
        await run(site.daphne, REVIEW)
        if "cookie" not in engine:
            reason, retry = await farewell(stream)
            assert (reason, retry < 1000) == ("age", True), "not silent for an hour"
    async with cat.stream(f"group=user.{cat.pk}"):
        pass

    # A session that is void.
    await run(site.daphne, USER.format(pk=ann.pk) + "user.set_password('other')\nuser.save()")
    before = await site.kept()
    assert await ann.status(f"/events/?group=user.{ann.pk}") == 403
    async with ann.stream("group=orders"):
        pass
    assert await site.kept() == before


async def test_a_session_that_has_expired_is_not_deleted_by_a_stream(
    make_daphne: Callable[..., Daphne], tmp_path: Path
) -> None:
    """Django's store of files deletes an expired session while it loads it, and makes a new one."""
    site = Site(make_daphne, tmp_path, f"{BACKENDS}.file")
    ann = await Visitor(site.daphne, "ann").sign_in()
    (file,) = (tmp_path / "sessions").iterdir()
    long_ago = time.time() - 10**8
    os.utime(file, (long_ago, long_ago))
    async with ann.stream("group=orders"):
        assert await ann.status(f"/events/?group=user.{ann.pk}") == 403
    assert list((tmp_path / "sessions").iterdir()) == [file]


@pytest.mark.slow
async def test_a_dashboard_changes_no_session_while_it_asks_again(
    make_daphne: Callable[..., Daphne], tmp_path: Path
) -> None:
    site = Site(make_daphne, tmp_path, f"{BACKENDS}.db")
    visitor = await Visitor(site.daphne, "ann").sign_in()
    await run(
        site.daphne,
        "from django.contrib.auth.models import User\n"
        "User.objects.update(is_staff=True, is_superuser=True)",
    )
    site.daphne.stop()
    site.daphne = site.start(NEW, OLD)
    ann = site.again(visitor)
    feed = "/admin/sse_app/serverprocess/feed/"
    limits = httpx.Limits(max_connections=None)
    async with (
        # Another tab, whose answer the browser has not taken yet.
        httpx.AsyncClient(
            base_url=site.daphne.url, cookies=ann.client.cookies, limits=limits, timeout=PATIENCE
        ) as tab,
        tab.stream("GET", feed) as response,
    ):
        stream = StreamReader(response)
        before = None
        for _ in range(3):
            while (await stream.next()).name != "totals":
                pass
            before = before or await site.kept()
        assert await site.kept() == before
        ann.client.cookies.update(response.cookies)
        assert await whoami(ann) == ann.pk


# --- parts ---


@pytest.fixture(params=[engine.rpartition(".")[2] for engine in ENGINES[:4]])
def store(request: Any, settings: Any, tmp_path: Path) -> Any:
    """A server-side session store."""
    settings.SESSION_ENGINE = f"{BACKENDS}.{request.param}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    kind = import_module(settings.SESSION_ENGINE).SessionStore
    if request.param == "file":
        kind.__dict__.get("_storage_path") and delattr(kind, "_storage_path")
    return kind


@pytest.mark.django_db
def test_a_policy_may_still_change_a_session_on_purpose(store: Any) -> None:
    made = store()
    made["n"] = 1
    made.create()
    session = session_by(made.session_key)
    assert session["n"] == 1
    session["n"] = 2
    session.save()
    assert store(made.session_key)["n"] == 2
    session.flush()
    assert not store().exists(made.session_key)


@pytest.mark.django_db
def test_a_session_without_a_user_is_a_strangers_and_nothing_is_made(store: Any) -> None:
    for key in (None, "", "x" * 32, "../" * 20):
        user, moves = user_of(session_by(key))
        assert (user.is_authenticated, moves) == (False, False)
    assert not live_sessions({"x" * 32})


def test_what_names_a_session_in_a_cookie_is_no_session(settings: Any) -> None:
    for engine in ENGINES[4:]:
        settings.SESSION_ENGINE = engine
        cookie = "eyJ" + "a" * 3000
        name = name_of(cookie)
        assert len(name) == 32
        assert name not in cookie
        assert name_of(cookie + "a") != name
        assert live_sessions({name}) == {name}, "nobody can take it back"
        assert name_of(None) == name_of("") == ""


@pytest.mark.django_db
def test_what_is_put_into_the_session_by_a_backend_stays_where_it_is(client: Any) -> None:
    client.force_login(User.objects.create(username="ann"))
    session = session_by(client.session.session_key)
    before = dict(session.items())
    user, moves = user_of(session)
    assert (user.username, moves) == ("ann", False)
    assert dict(session.items()) == before
    assert not session.modified
