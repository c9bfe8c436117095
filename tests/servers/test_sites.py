"""Two sites on one Redis with the default settings: nothing of one reaches the other."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import InvalidChannelLayerError
from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from sse_app.access.limits_redis import shared_counts
from sse_app.asgi import event_stream_application
from sse_app.conf import site_tag
from sse_app.eventlog import RedisEventLog, event_log
from sse_app.protocol.groups import CONTROL_GROUP, layer_group

from ..selection import first_then_slow
from ..support.servers import Daphne, eventually
from ..support.sleepers import run
from ..support.valkeys import Valkey
from ..support.visits import ROOM, Visit, cookie_of, members

LAYERS = ["channels_redis.pubsub.RedisPubSubChannelLayer", "channels_redis.core.RedisChannelLayer"]
REDIS_LOG = "sse_app.eventlog.RedisEventLog"
TAG = "from sse_app.conf import site_tag\nresult = site_tag()"
DISCONNECT = """
from django.contrib.auth.models import User
from sse_app import disconnect
result = disconnect(user=User.objects.get(username="ann"))
"""
#: What code that knows nothing of the app's events sends on the channel layer.
FOREIGN = f"""
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from sse_app.conf import site_tag
from sse_app.protocol.groups import layer_group
message = {{"type": "sse.event", "group": {ROOM!r}, "event": "n", "data": "foreign"}}
async_to_sync(get_channel_layer().group_send)(layer_group({ROOM!r}, site_tag()), message)
"""


# --- the tag ---


def test_the_tag_is_of_the_oldest_secret_key() -> None:
    with override_settings(SECRET_KEY="old"):
        tag = site_tag()
        assert len(tag) == 8
        assert site_tag() == tag
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"]):
        assert site_tag() == tag, "a rotation changes it at once"
    with override_settings(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["new", "old"]):
        assert site_tag() == tag
    with override_settings(SECRET_KEY=b"old"):
        assert site_tag() == tag
    with override_settings(SECRET_KEY="new"):
        assert site_tag() != tag
    with override_settings(SECRET_KEY="new", SSE_APP={"SITE_TAG": tag}):
        assert site_tag() == tag, "the setting keeps it when the old key is removed"


def test_the_longest_names_make_a_layer_group_that_channels_takes() -> None:
    with override_settings(SSE_APP={"SITE_TAG": "t" * 10}):
        name = layer_group("g" * 80, site_tag())
        BaseChannelLayer().require_valid_group_name(name)  # type: ignore[no-untyped-call]
        with pytest.raises((TypeError, InvalidChannelLayerError)):
            BaseChannelLayer().require_valid_group_name(name + "x")  # type: ignore[no-untyped-call]


def test_no_two_sites_share_the_name_of_a_group() -> None:
    names = set()
    for tag in ("a", "b", "a-b", "a_b"):
        with override_settings(SSE_APP={"SITE_TAG": tag}):
            names |= {
                layer_group(group, site_tag())
                for group in ("g", "a.g", "b.g", "b.a.g", CONTROL_GROUP)
            }
    assert len(names) == 20


@pytest.mark.parametrize("tag", ["", "a.b", "a b", "t" * 11, "shop\n", "ä", 5, b"shop"])
def test_a_wrong_tag_is_named_before_the_site_serves(tag: object) -> None:
    with override_settings(SSE_APP={"SITE_TAG": tag}):
        with pytest.raises(ImproperlyConfigured) as caught:
            event_stream_application(lambda *args: None)  # type: ignore[arg-type, return-value]
        assert repr(tag) in str(caught.value)
        assert "1 to 10" in str(caught.value)


async def test_the_keys_of_log_and_limits_have_the_tag_unless_a_prefix_is_given() -> None:
    def place() -> str:
        log = event_log()
        assert isinstance(log, RedisEventLog)
        return log.location()[0]

    def limits() -> str:
        counts = shared_counts()
        assert counts is not None
        return counts._prefix

    log = {"BACKEND": REDIS_LOG}
    hosts = {"CONFIG": {"hosts": ["redis://127.0.0.1:6379"]}}
    with override_settings(SSE_APP={"EVENT_LOG": log, "SITE_TAG": "shop"}):
        assert (place(), limits()) == ("sse_app.shop", "{sse_app.shop.limits}:")
    with override_settings(SSE_APP={"EVENT_LOG": log}):
        first = place()
        with override_settings(SECRET_KEY="another"):
            assert place() != first
            assert limits() == f"{{{place()}.limits}}:"
        assert place() == first
    with override_settings(SSE_APP={"EVENT_LOG": {**log, "PREFIX": "own"}, "SITE_TAG": "shop"}):
        assert place() == "own"
    with override_settings(
        SSE_APP={"SITE_TAG": "shop"}, CHANNEL_LAYERS={"default": {"BACKEND": LAYERS[0], **hosts}}
    ):
        assert limits() == "{asgi.sse_app.shop.limits}:"


# --- two sites ---


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey").start()
    yield server
    server.kill()


@pytest.fixture
def site(
    make_daphne: Callable[..., Daphne], redis_server: Valkey, tmp_path: Path, migrated: Path
) -> Callable[..., Daphne]:
    """Start a server process of a site with a key and a database of its own; all share a Redis."""

    def site(name: str, layer: str, *, in_redis: bool = False, **sse_app: Any) -> Daphne:
        database = tmp_path / f"{name}.sqlite3"
        if not database.exists():
            shutil.copy(migrated, database)
        environment = {
            "SECRET_KEY": f"the key of {name}",
            "DATABASE_URL": f"sqlite:///{database}",
            "REDIS_URL": redis_server.url,
            "TEST_LAYER": layer,
        }
        if in_redis:
            sse_app["EVENT_LOG"] = {"BACKEND": REDIS_LOG, "URL": redis_server.url}
        # Only the layer brings events, and only a revocation ends a stream.
        slow = {"CHECK_INTERVAL": 600, "SWEEP_INTERVAL": 600, "REVALIDATE_INTERVAL": 600}
        return make_daphne(environment, **slow, **sse_app)

    return site


@pytest.fixture
async def visit() -> Any:
    visit = Visit()
    yield visit
    await visit.leave()


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "in_redis"), [(LAYERS[0], False), (LAYERS[1], True)])
async def test_events_counts_disconnects_and_presence_stay_apart(
    site: Callable[..., Daphne], visit: Visit, redis_server: Valkey, layer: str, in_redis: bool
) -> None:
    def start(name: str) -> Daphne:
        return site(name, layer, in_redis=in_redis, STREAMS_PER_USER=1)

    shop, blog = [await asyncio.to_thread(start, name) for name in ("shop", "blog")]
    # Both are the first user of their site: a count in common would refuse the second one.
    at_shop = await visit.enter(shop, cookie_of(shop, "ann"))
    at_blog = await visit.enter(blog, cookie_of(blog, "bob"))
    for how in ("publish-passing", "publish"):
        await asyncio.to_thread(shop.publish, ROOM, "n", "of the shop", how)
        await asyncio.to_thread(blog.publish, ROOM, "n", "of the blog", how)
    for stream, data, name in ((at_shop, "of the shop", "ann"), (at_blog, "of the blog", "bob")):
        seen = await stream.take(3)  # The row that says who is here is written within a second.
        assert [event.data for event in seen if event.name == "n"] == [data] * 2
        (joined,) = [event for event in seen if event.name == "presence.join"]
        assert joined.json()["name"] == name
    assert await asyncio.to_thread(members, shop) == ["ann"]
    assert await asyncio.to_thread(members, blog) == ["bob"]

    await asyncio.to_thread(shop.shell, FOREIGN + DISCONNECT)  # in another process of the shop
    foreign, closed = await at_shop.until_end()
    assert (foreign.name, foreign.data) == ("n", "foreign")
    assert (closed.name, closed.json()["reason"]) == ("sse.close", "auth")
    await asyncio.to_thread(blog.publish, ROOM, "n", "still there", "publish-passing")
    assert (await at_blog.next()).data == "still there"

    tags = [run(server, TAG) for server in (shop, blog)]
    with redis_server.client() as client:
        keys = [key.decode() for key in client.scan_iter(match="*sse_app*")]
    assert [key for key in keys if not any(f"sse_app.{tag}" in key for tag in tags)] == []


@pytest.mark.parametrize("layer", first_then_slow(LAYERS))
async def test_two_processes_of_one_site_work_together(
    site: Callable[..., Daphne], visit: Visit, layer: str
) -> None:
    def start() -> Daphne:
        return site("shop", layer, STREAMS_PER_USER=1)

    here, there = [await asyncio.to_thread(start) for _ in range(2)]
    ann = cookie_of(here, "ann")
    stream = await visit.enter(here, ann)
    for how in ("publish-passing", "publish"):
        await asyncio.to_thread(there.publish, ROOM, "n", how, how)
    seen: list[str] = []
    while len(seen) < 2:
        event = await stream.next()
        seen += [event.data] if event.name == "n" else []
    # In any order: a durable event may come from the log before the layer brings the other one.
    assert sorted(seen) == ["publish", "publish-passing"]
    async with there.stream(f"group={ROOM}", headers=ann) as refused:
        first = await refused.next()
        assert (first.name, first.json()["reason"]) == ("sse.busy", "user")
    await asyncio.to_thread(run, there, DISCONNECT)
    assert (await stream.until_end())[-1].name == "sse.close"


@pytest.mark.slow
def test_the_doctor_names_the_tag_and_processes_that_have_another(
    site: Callable[..., Daphne], redis_server: Valkey
) -> None:
    shop = site("shop", LAYERS[0], in_redis=True)
    found = shop.try_manage("sse_doctor")
    assert found.returncode == 0, found.stdout
    tag = run(shop, TAG)
    assert f"ok: site: The tag is {tag!r}; messages of sites with another" in found.stdout
    assert f"begin with 'sse_app.{tag}'" in found.stdout
    eventually(
        lambda: run(
            shop, "from sse_app.operations import processes\nresult = len(processes.alive())"
        )
    )
    shop.environment["SECRET_KEY"] = "a key that the worker alone has"
    found = shop.try_manage("sse_doctor")
    assert found.returncode == 1
    assert "ERROR: site: The tag is " in found.stdout
    assert f"but {tag!r} in process {shop.process.pid} on " in found.stdout
