"""`manage.py check --deploy`: each warning, and the setting that ends it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections

from sse_app.checks import deployment
from sse_app.checks.deployment import check_deployment
from sse_app.conf import site_tag
from sse_app.delivery.transports import servers

SSE_APP: dict[str, Any] = {
    "PUBLIC_GROUPS": ["news", "chat.*"],
    "TRUSTED_PROXIES": ["10.0.0.0/8", "unix"],
}
GOOD = {
    "DEBUG": False,
    "ALLOWED_HOSTS": ["www.example.com"],
    "SESSION_COOKIE_SECURE": True,
    "CSRF_COOKIE_SECURE": True,
    "CHANNEL_LAYERS": {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:6379"]},
        }
    },
    "SSE_APP": SSE_APP,
}


@pytest.fixture(autouse=True)
def good(settings: Any, tmp_path: Path) -> None:
    """A site that nothing is to be said about."""
    for name, value in {**GOOD, "BASE_DIR": tmp_path}.items():
        setattr(settings, name, value)


def found() -> dict[str, str]:
    messages = check_deployment(None)
    assert all(message.hint for message in messages)
    return {str(message.id): message.msg for message in messages}


def only(id: str) -> str:
    messages = found()
    assert list(messages) == [f"sse_app.{id}"]
    return messages[f"sse_app.{id}"]


def test_a_site_that_is_ready_is_not_warned() -> None:
    assert found() == {}


@pytest.mark.django_db  # Django 6.1 asks the database for its version.
def test_the_warnings_come_with_deploy_only(settings: Any) -> None:
    settings.SSE_APP = {}
    said = {message.id for message in run_checks(include_deployment_checks=True)}
    assert "sse_app.W011" in said
    assert "sse_app.W011" not in {message.id for message in run_checks()}


def test_the_command_prints_them(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.SSE_APP = {}
    call_command("check", "--deploy", "--tag", "sse_app")
    assert "SSE_APP['TRUSTED_PROXIES'] is empty" in capsys.readouterr().err


def test_the_in_memory_layer_is_named(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert "'default' is in-memory" in only("W001")


def test_the_log_in_memory_is_named(settings: Any) -> None:
    path = "sse_app.eventlog.MemoryEventLog"
    settings.SSE_APP = {**SSE_APP, "EVENT_LOG": path}
    assert path in only("W002")


def test_a_site_tag_that_goes_with_a_fallback_key_is_named(settings: Any) -> None:
    settings.SECRET_KEY_FALLBACKS = ["old"]
    tag = site_tag()
    assert f"The site tag {tag!r} comes from the last" in only("W014")
    settings.SSE_APP = {**SSE_APP, "SITE_TAG": tag}
    assert found() == {}


def test_a_fallback_key_is_no_matter_where_no_redis_is_shared(settings: Any) -> None:
    settings.SECRET_KEY_FALLBACKS = ["old"]
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    only("W001")
    settings.SSE_APP = {**SSE_APP, "EVENT_LOG": "sse_app.eventlog.RedisEventLog"}
    assert set(found()) == {"sse_app.W001", "sse_app.W014"}


def test_debug_is_named(settings: Any) -> None:
    settings.DEBUG = True
    assert "DEBUG is True" in only("W003")


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    if connections["default"].vendor != "sqlite":
        pytest.skip("the log is not in SQLite")

    def use(**given: Any) -> None:
        name = str(tmp_path / "db.sqlite3")
        settings = {**connections["default"].settings_dict, "OPTIONS": given, "NAME": name}
        monkeypatch.setattr(connections["default"], "settings_dict", settings)

    return use


IMMEDIATE = {"transaction_mode": "IMMEDIATE"}
WAL = {"init_command": "PRAGMA foreign_keys=1; pragma journal_mode = wal"}


def test_sqlite_that_begins_deferred_is_named(options: Callable[..., None]) -> None:
    options(**WAL)
    text = only("W004")
    assert "'default'" in text
    assert "None" in text
    assert "WAL" not in text
    options(transaction_mode="DEFERRED", **WAL)
    assert "'DEFERRED'" in only("W004")


def test_sqlite_without_wal_is_named(options: Callable[..., None], tmp_path: Path) -> None:
    options(**IMMEDIATE, init_command="PRAGMA journal_mode=WALRUS")
    text = only("W004")
    assert "WAL mode" in text
    assert "IMMEDIATE" not in text


def test_sqlite_as_it_should_be_is_not_named(options: Callable[..., None]) -> None:
    options(transaction_mode="immediate", **WAL)
    assert found() == {}


def test_a_file_that_was_put_into_wal_by_hand_is_in_wal(
    options: Callable[..., None], tmp_path: Path
) -> None:
    options(**IMMEDIATE)
    with closing(sqlite3.connect(tmp_path / "db.sqlite3")) as connection:
        connection.execute("CREATE TABLE t (x)")
        assert "WAL mode" in only("W004")
        connection.execute("PRAGMA journal_mode=WAL")
        assert found() == {}


def test_the_demos_own_database_is_as_it_should_be(options: Callable[..., None]) -> None:
    options(**connections["default"].settings_dict["OPTIONS"])
    assert found() == {}


def test_sqlite_is_of_no_concern_when_the_log_is_elsewhere(
    settings: Any, options: Callable[..., None]
) -> None:
    options()
    assert "sse_app.W004" in found()
    settings.SSE_APP = {**SSE_APP, "EVENT_LOG": "sse_app.eventlog.RedisEventLog"}
    assert found() == {}


@pytest.mark.parametrize(
    ("package", "installed", "floor"),
    [
        ("daphne", "4.2.1", "4.2.2"),
        ("daphne", "3.9.9", "4.2.2"),
        ("daphne", "4.2", "4.2.2"),
        ("daphne", "4.2.2", None),
        ("daphne", "4.2.10", None),
        ("daphne", "4.10.0", None),
        ("daphne", "5.0", None),
        ("django", "5.1.15", "5.2.13"),
        ("django", "5.2.12", "5.2.13"),
        ("django", "5.2.13", None),
        ("django", "6.0", "6.0.4"),
        ("django", "6.0.3", "6.0.4"),
        ("django", "6.0.4", None),
        ("django", "6.1", None),
        ("twisted", "24.3.0", "24.7"),
        ("twisted", "24.7.0", None),
        ("redis", "4.6.0", "5.0"),
        ("redis", "5.0.0", None),
    ],
)
def test_a_package_with_known_holes_is_named_with_its_floor(
    monkeypatch: pytest.MonkeyPatch, package: str, installed: str, floor: str | None
) -> None:
    def installed_version(name: str) -> str:
        if name != package:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(deployment, "version", installed_version)
    if floor is None:
        assert found() == {}
    else:
        assert f"{package} {installed} is installed; versions before {floor} " in only("W005")


@pytest.mark.parametrize("name", ["STATIC_URL", "MEDIA_URL"])
def test_a_relative_url_of_files_is_named(settings: Any, name: str) -> None:
    setattr(settings, name, "files/")
    assert f"{name} is 'files/', which is relative" in only("W013")
    for url in ("/files/", "https://files.example.com/", "http://files.example.com/"):
        setattr(settings, name, url)
        assert found() == {}


def test_a_site_on_another_server_needs_no_daphne(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(deployment, "version", missing)
    assert found() == {}


@pytest.mark.parametrize(
    ("name", "text", "option"),
    [
        ("Procfile", "web: daphne -p 80 -t 60 project.asgi:application\n", "-t 60"),
        ("Dockerfile", 'CMD ["daphne", "--http-timeout", "30", "p.asgi:a"]', "--http-timeout 30"),
        ("Makefile", "run:\n\tdaphne --verbosity 1 \\\n\t  -t 5 p.asgi:a\n", "-t 5"),
        ("compose.yaml", "command: daphne --http-timeout=120 p.asgi:a", "--http-timeout 120"),
        ("Procfile", "web: daphne -p 80 project.asgi:application\nother: make -t 60\n", None),
        ("Procfile", "web: daphne --websocket_timeout 60 --ping-interval 5 p.asgi:a\n", None),
        ("Procfile", "web: gunicorn -t 60 p.wsgi\n", None),
    ],
)
def test_a_start_command_with_a_timeout_is_named(
    tmp_path: Path, name: str, text: str, option: str | None
) -> None:
    (tmp_path / name).write_text(text)
    if option is None:
        assert found() == {}
    else:
        assert f"{name} starts daphne with {option}" in only("W006")


@pytest.mark.parametrize("name", ["SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"])
def test_a_cookie_that_is_not_secure_is_named(settings: Any, name: str) -> None:
    setattr(settings, name, False)
    assert f"{name} is False" in only("W007")


@pytest.mark.parametrize("pattern", ["*", "**"])
def test_a_pattern_that_makes_everything_public_is_named(settings: Any, pattern: str) -> None:
    settings.SSE_APP = {**SSE_APP, "PUBLIC_GROUPS": ["news", pattern]}
    assert repr(pattern) in only("W008")


def test_a_host_of_any_name_is_named(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert "ALLOWED_HOSTS" in only("W009")


def test_the_origin_null_is_named(settings: Any) -> None:
    settings.SSE_APP = {**SSE_APP, "ALLOWED_ORIGINS": ["null"]}
    assert "'null'" in only("W010")
    settings.SSE_APP = {**SSE_APP, "ALLOWED_ORIGINS": ["https://a.example"]}
    assert found() == {}


def test_limits_by_address_that_do_not_apply_are_named(settings: Any) -> None:
    settings.SSE_APP = {}
    assert "SSE_APP['TRUSTED_PROXIES'] is empty: limits by address do not apply" in only("W011")


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_trusting_everybody_is_named(settings: Any, network: str) -> None:
    settings.SSE_APP = {"TRUSTED_PROXIES": ["10.0.0.0/8", network]}
    assert repr(network) in only("W012")


@pytest.mark.parametrize(
    "wrong",
    [
        ["no dict"],
        {"NO_KEY": 1},
        {"TRUSTED_PROXIES": ["x"]},
        {"EVENT_LOG": "nowhere.Log"},
        {"CHANNEL_LAYER": "missing"},
        {"PUBLIC_GROUPS": 5},
        {"ALLOWED_ORIGINS": ["*"]},
        {"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": "lost"}},
    ],
)
def test_settings_that_are_plain_wrong_are_left_to_the_other_checks(
    settings: Any, wrong: Any
) -> None:
    settings.SSE_APP = wrong
    assert set(found()) <= {"sse_app.W011"}


# --- what only the running server knows ---


@pytest.fixture
def send(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make what Daphne hands to an application, of a server with these options."""
    from daphne.server import Server

    def make(**options: Any) -> Any:
        return partial(Server("application", endpoints=["tcp:0"], **options).handle_reply, object())

    monkeypatch.setattr(servers, "_warned", set())
    return make


def test_a_daphne_with_options_that_hurt_streams_says_so_once(
    send: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    given = send(http_timeout=60, proxy_forwarded_address_header="X-Forwarded-For")
    for _ in range(2):
        servers.warn_of_options(given)
    timeout, proxy = (record.getMessage() for record in caplog.records)
    assert "--http-timeout 60" in timeout
    assert "--proxy-headers" in proxy


def test_a_daphne_as_it_should_be_and_other_servers_say_nothing(
    send: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    other = SimpleNamespace(http_timeout=60, reply=lambda message: None)
    for given in (send(), other.reply, partial(other.reply), None):
        servers.warn_of_options(given)
    assert caplog.records == []


def test_a_daphne_whose_request_is_another_one_is_written_to_by_send(
    send: Callable[..., Any],
) -> None:
    server = send().func
    known = SimpleNamespace(
        channel=None,
        content=None,
        application_queue=None,
        write=None,
        registerProducer=None,
        unregisterProducer=None,
        sentLength=0,
    )
    assert servers.daphne_request(partial(server, known)) is known
    assert servers.daphne_request(partial(server, SimpleNamespace(write=None))) is None
