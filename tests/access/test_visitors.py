"""Visitors that are read together: as Django reads each, by few statements, and none for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.db import OperationalError, connections
from django.test.utils import CaptureQueriesContext

from sse_app.access import visitors
from sse_app.access.sessions import session_by
from sse_app.access.visitors import may_be_read_together, read_visitors

from ..support.patience import PATIENCE
from ..support.servers import Daphne, StreamReader
from ..support.visitors import NEVER, run

MODEL = "django.contrib.auth.backends.ModelBackend"
ALL = "django.contrib.auth.backends.AllowAllUsersModelBackend"
OWN = "tests.access.test_visitors.OwnBackend"
ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]
OLD, NEW = "an-old-key-" + "o" * 50, "a-new-key-" + "n" * 50


class OwnBackend(ModelBackend):
    """A backend whose users are found in its own way."""

    def get_user(self, user_id: int) -> Any:
        """Find a user by another query than Django's."""
        return super().get_user(user_id)


def session(user: User | None = None, **values: Any) -> str:
    store = import_module(_settings().SESSION_ENGINE).SessionStore()
    if user is not None:
        store[SESSION_KEY] = str(user.pk)
        store[BACKEND_SESSION_KEY] = MODEL
        store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.update(values)
    store.save()
    key: str = store.session_key
    return key


def _settings() -> Any:
    from django.conf import settings

    return settings


def read(*keys: str) -> list[Any]:
    return read_visitors([session_by(key) for key in keys])


@pytest.mark.django_db
@pytest.mark.parametrize("engine", ENGINES)
def test_each_visitor_is_the_user_that_django_finds(
    settings: Any, engine: str, tmp_path: Any
) -> None:
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.AUTHENTICATION_BACKENDS = [MODEL, ALL]
    settings.SECRET_KEY = OLD
    ann, bob, gone = (User.objects.create_user(name) for name in ("ann", "bob", "gone"))
    asleep = User.objects.create_user("asleep", is_active=False)
    moving = session(bob)
    signed_out = session(bob, **{HASH_SESSION_KEY: "x"})
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = NEW, [OLD]
    keys = [
        session(ann),
        session(ann),
        moving,
        signed_out,
        session(ann, **{HASH_SESSION_KEY: ""}),
        session(ann, **{BACKEND_SESSION_KEY: "a.backend.of.before"}),
        session(asleep),
        session(asleep, **{BACKEND_SESSION_KEY: ALL}),
        session(gone),
        session(n=1),
        "unknown" * 4,
        "short",
    ]
    gone.delete()
    expected = []
    for key in keys:
        alone = session_by(key)
        alone.cycle_key = alone.flush = lambda: None
        user: Any = get_user(SimpleNamespace(session=alone))  # type: ignore[arg-type]
        expected.append(user.pk if user.is_active else None)
    found = read(*keys)
    assert [one.user.pk for one in found] == expected
    assert expected[:3] == [ann.pk, ann.pk, bob.pk]
    assert set(expected[3:]) == {None}
    assert [one.moves for one in found] == [n == 2 for n in range(len(keys))]
    assert [one.fingerprint is not None for one in found] == [pk is not None for pk in expected]
    assert found[0].user is not found[1].user, "a policy may change the user of its stream"


@pytest.mark.django_db
@pytest.mark.parametrize("count", [1, 200])
def test_however_many_there_are_they_are_read_by_three_statements(count: int) -> None:
    users = User.objects.bulk_create(User(username=f"u{n}") for n in range(count))
    keys = [session(user) for user in users]
    with CaptureQueriesContext(connections["default"]) as queries:
        found = read(*keys)
    assert [one.user.pk for one in found] == [user.pk for user in users]
    assert len(queries) == 3


@pytest.mark.django_db
def test_a_visitor_that_fails_is_an_error_of_its_own(settings: Any) -> None:
    settings.AUTHENTICATION_BACKENDS = [MODEL, OWN]
    ann = User.objects.create_user("ann")
    keys = [session(ann), session(ann, **{SESSION_KEY: "no number"})]
    good, bad = read(*keys)
    assert good.user == ann
    assert "no number" in str(bad)
    own = session(ann, **{BACKEND_SESSION_KEY: OWN})
    assert read(keys[0], own)[1] is None, "it is read alone"


@pytest.mark.django_db
def test_what_fails_the_statement_is_found_by_reading_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(keys: Any) -> Any:
        raise error

    monkeypatch.setattr(visitors, "_users", fail)
    error: Exception = ValueError("A string literal cannot contain NUL (0x00) characters.")
    assert read("a" * 32, "b" * 32) == [None, None]
    error = OperationalError("the connection is lost")
    with pytest.raises(OperationalError):
        read("a" * 32, "b" * 32)


class OwnStore(DatabaseStore):
    """A store that loads sessions in its own way."""

    def load(self) -> dict[str, Any]:
        """Load as Django does."""
        return super().load()


def test_code_of_a_project_is_called_for_one_visitor_alone(settings: Any) -> None:
    assert may_be_read_together(session_by("a" * 32))
    assert not may_be_read_together(OwnStore("a" * 32))
    settings.DATABASE_ROUTERS = ["tests.support.replicas.Router"]
    assert not may_be_read_together(session_by("a" * 32)), "a router may ask for the tenant"


ARRIVALS = 200
#: Counts in the server, and holds the first read until all others wait for the next one.
COUNT = f"""
import threading
from collections import Counter
from django.db.backends.signals import connection_created
from django.db.backends.utils import CursorWrapper
from sse_app.access import admission
from sse_app.runtime import batches

counts = batches.counts = Counter()
kept = batches.kept = [lambda **named: counts.update(opened=1)]
connection_created.connect(kept[0])
execute, read = CursorWrapper.execute, admission.read_visitors

def counted(self, sql, params=None):
    for table in ("django_session", "auth_user"):
        counts[table] += f'FROM "{{table}}"' in sql
    return execute(self, sql, params)

def held(sessions):
    waiting = lambda: sum(len(queue._waiting) for queue in admission._batches._queues.values())
    if not counts["read"]:
        while len(sessions) + waiting() < {ARRIVALS}:
            threading.Event().wait(0.01)
    counts["read"] += 1
    return read(sessions)

CursorWrapper.execute, admission.read_visitors = counted, held
batches.PATIENCE_SECONDS = 600
"""
COUNTED = """
import gc
from django.db.backends.base.base import BaseDatabaseWrapper
from sse_app.runtime import batches

gc.collect()
wrappers = sum(isinstance(each, BaseDatabaseWrapper) for each in gc.get_objects())
result = {**batches.counts, "wrappers": wrappers}
"""
SIGN_IN = f"""
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
result = []
for n in range({ARRIVALS}):
    user, store = User.objects.create_user(f"u{{n}}"), SessionStore()
    store[SESSION_KEY], store[BACKEND_SESSION_KEY] = str(user.pk), {MODEL!r}
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.save()
    result.append((user.pk, store.session_key))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: Any, make_daphne: Callable[..., Daphne]) -> Daphne:
    """A server with Django's default `CONN_MAX_AGE`, whose background work is rare."""
    environment = {}
    if request.param == "postgresql":
        environment["TEST_POSTGRES_NAME"] = request.getfixturevalue("database")
    return make_daphne(environment, CHECK_INTERVAL=NEVER, SWEEP_INTERVAL=NEVER)


async def test_signed_in_arrivals_share_statements_and_open_no_connections(site: Daphne) -> None:
    visitors = await run(site, SIGN_IN)
    await run(site, COUNT)
    unlimited = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=site.url, timeout=PATIENCE, limits=unlimited) as client,
        AsyncExitStack() as streams,
    ):

        async def arrive(pk: int, key: str) -> str:
            headers = {"Cookie": f"sessionid={key}"}
            stream = client.stream("GET", f"/events/?group=user.{pk}", headers=headers)
            return (await StreamReader(await streams.enter_async_context(stream)).next()).name

        first = await asyncio.gather(*(arrive(*visitor) for visitor in visitors))
        assert set(first) == {"sse.open"}
        counts = await run(site, COUNTED)
    assert counts["read"] <= 3
    assert counts["django_session"] == counts["read"]
    assert counts["auth_user"] == 2 * counts["read"], "the users, and their fingerprints"
    assert counts["opened"] < 20, "the threads' and the views', and none for a stream"
    assert counts["wrappers"] < 50, "a stream keeps none"
