"""`SSE_APP`, the system checks and the wiring: what is wrong is named, with what would be right."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import Client, override_settings

from sse_app.asgi import event_stream_application
from sse_app.checks.settings import check_settings
from sse_app.conf import KEYS, settings, written

bare_handler = get_asgi_application()
not_callable = 5


def found() -> list[tuple[str | None, str]]:
    return [(message.id, message.msg) for message in check_settings(None)]


@pytest.mark.django_db  # Django 6.1 asks the database for its version.
def test_the_defaults_and_the_demo_pass() -> None:
    assert found() == []
    assert [message for message in run_checks() if (message.id or "").startswith("sse_app")] == []
    with override_settings(SSE_APP={}):
        assert found() == []
    with override_settings(SSE_APP={"RETENTION_SECONDS": None, "REPLAY_EVENTS": None}):
        assert found() == []


def test_settings_follow_the_override() -> None:
    with override_settings(SSE_APP={"HEARTBEAT": 3}):
        assert settings().HEARTBEAT == 3
        assert settings().STALL_SECONDS == 30
    assert settings().HEARTBEAT == 15


def test_rows_are_read_where_they_are_written_and_not_from_a_replica() -> None:
    with override_settings(DATABASE_ROUTERS=["tests.support.replicas.Router"]):
        assert User.objects.all().db == "replica"
        assert written(User).db == "default"


def test_an_unknown_key_is_named_with_the_legal_ones() -> None:
    with override_settings(SSE_APP={"HEARTBEET": 3}):
        with pytest.raises(ImproperlyConfigured) as caught:
            settings()
        ((id, message),) = found()
    assert id == "sse_app.E001"
    for text in (str(caught.value), message):
        assert "'HEARTBEET'" in text
        assert all(key in text for key in KEYS)


def test_a_setting_that_is_no_dict_is_an_error() -> None:
    with override_settings(SSE_APP=["HEARTBEAT"]):
        assert found() == [("sse_app.E001", "SSE_APP must be a dict, not list.")]


@pytest.mark.parametrize(
    ("given", "id", "named"),
    [
        ({"PUBLIC_GROUPS": ["bad pattern"]}, "E002", "'bad pattern'"),
        ({"PUBLIC_GROUPS": [5]}, "E002", "5"),
        ({"PUBLIC_GROUPS": "chat.*"}, "E002", "'chat.*'"),
        ({"PUBLIC_GROUPS": None}, "E002", "None"),
        ({"RETAIN": ["price.*"]}, "E012", "['price.*']"),
        ({"RETAIN": {"bad pattern": 1}}, "E012", "'bad pattern'"),
        ({"RETAIN": {"price.*": 0}}, "E012", "'price.*'] is 0; it must be an int from 1 to 500"),
        ({"RETAIN": {"price.*": 9}, "RETENTION_EVENTS": 8}, "E012", "from 1 to 4"),
        ({"SNAPSHOT_SECONDS": 0}, "E003", "0"),
        ({"POLICY_SECONDS": None}, "E003", "None"),
        ({"HEARTBEAT": 0}, "E003", "0"),
        ({"HEARTBEAT": "15"}, "E003", "'15'"),
        ({"HEARTBEAT": float("nan")}, "E003", "nan"),
        ({"MAX_EVENT_BYTES": -1}, "E003", "-1"),
        ({"MAX_GROUPS": True}, "E003", "True"),
        ({"RETENTION_EVENTS": None}, "E003", "None"),
        ({"RETENTION_SECONDS": 10**11}, "E003", "100000000000; it must be a number above 0 and up"),
        ({"RETENTION_EVENTS": 10**30}, "E003", "up to 3155760000."),
        ({"GRANT_AGE": float("inf")}, "E003", "inf"),
        ({"RETRY": 2}, "E003", "2"),
        ({"RETRY": (5, 2)}, "E003", "(5, 2)"),
        ({"RETRY": (1, 2, 3)}, "E003", "(1, 2, 3)"),
        ({"RETRY": ("1", "2")}, "E003", "('1', '2')"),
        ({"CHANNEL_LAYER": "missing"}, "E004", "'missing'"),
        ({"SITE_TAG": "shop.eu"}, "E013", "'shop.eu'"),
        ({"SITE_TAG": "production-eu"}, "E013", "'production-eu'; it must be 1 to 10"),
        ({"EVENT_LOG": "nowhere.Log"}, "E005", "'nowhere.Log'"),
        ({"EVENT_LOG": "sse_app.protocol.events.Event"}, "E005", "'sse_app.protocol.events.Event'"),
        (
            {"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "COLOUR": 1}},
            "E005",
            "colour",
        ),
        (
            {"EVENT_LOG": {"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": "lost"}},
            "E005",
            "'lost'",
        ),
        ({"EVENT_LOG": None}, "E005", "None"),
        ({"MAY_LISTEN": "nowhere.policy"}, "E006", "'nowhere.policy'"),
        ({"MAY_SPEAK": f"{__name__}.not_callable"}, "E006", "not_callable"),
        ({"MAY_LISTEN": found}, "E006", "found"),
        ({"MAX_GROUPS": 25}, "E003", "25"),
        ({"AUTHENTICATE": "nowhere.user"}, "E006", "'nowhere.user'"),
        ({"AUTHENTICATE": [["nowhere.user"]]}, "E006", "[['nowhere.user']]"),
        ({"AUTHENTICATE": {}}, "E006", "{}"),
        ({"AUTHENTICATE": ["django.http.HttpRequest"]}, "E006", "without authenticate"),
        ({"NAMESPACE": "nowhere.tenant"}, "E006", "'nowhere.tenant'"),
        ({"STREAM_CONTEXT": f"{__name__}.not_callable"}, "E006", "not_callable"),
        ({"METRICS_ADDRESSES": "10.0.0.0/8"}, "E011", "'10.0.0.0/8'"),
        ({"METRICS_ADDRESSES": ["10.0.0.1/8"]}, "E011", "'10.0.0.1/8'"),
        ({"METRICS_ADDRESSES": ["unix"]}, "E011", "'unix'"),
        ({"METRICS_ADDRESSES": [None]}, "E011", "None"),
    ],
)
def test_a_wrong_value_is_named(given: dict[str, Any], id: str, named: str) -> None:
    key = next(iter(given))
    with override_settings(SSE_APP=given):
        messages = found()
    assert [name for name, _ in messages] == [f"sse_app.{id}"]
    assert named in messages[0][1]
    assert key in messages[0][1]


def test_a_log_on_a_database_that_never_commits_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "AUTOCOMMIT", False)
    ((id, message),) = found()
    assert id == "sse_app.E005"
    assert "'default', whose AUTOCOMMIT is False" in message


TENANTS = {"NAMESPACE": f"{__name__}.found", "STREAM_CONTEXT": f"{__name__}.found"}


@pytest.mark.parametrize(
    ("given", "apps", "refused"),
    [
        (TENANTS, {}, False),
        (TENANTS, {"TENANT_APPS": ("shop",)}, False),
        ({"NAMESPACE": TENANTS["NAMESPACE"]}, {}, True),
        ({"STREAM_CONTEXT": TENANTS["STREAM_CONTEXT"]}, {}, True),
        ({}, {}, True),
        (TENANTS, {"TENANT_APPS": ("shop", "sse_app")}, True),
        (TENANTS, {"TENANT_APPS": ["sse_app.apps.SseAppConfig"]}, True),
        (TENANTS, {"TENANT_TYPES": {"public": {}, "shop": {"APPS": ["sse_app"]}}}, True),
        (TENANTS, {"TENANT_TYPES": {"public": {"APPS": ["sse_app"]}}}, False),
    ],
)
def test_django_tenants_needs_both_settings_and_one_log(
    given: dict[str, Any], apps: dict[str, Any], refused: bool
) -> None:
    database = {
        **django_settings.DATABASES["default"],
        "ENGINE": "django_tenants.postgresql_backend",
    }
    with override_settings(SSE_APP=given, **apps):
        assert "sse_app.E014" not in dict(found())
        # Only the checks read the setting again; connections are those of the tests.
        with patch.dict(django_settings.DATABASES, {"tenants": database}):
            assert ("sse_app.E014" in dict(found())) == refused


def test_a_pattern_given_without_its_list_grants_nothing_to_strangers() -> None:
    """As a sequence of characters, `"chat.*"` would hold the pattern `"*"`."""
    from sse_app.access.authorization import is_public

    with override_settings(SSE_APP={"PUBLIC_GROUPS": "chat.*"}):
        try:
            public = is_public(["secret"])
        except ImproperlyConfigured:
            return
    assert not public


@pytest.mark.parametrize(
    "path",
    [None, "", "nowhere.application", "project.asgi.missing", "plain", f"{__name__}.missing"],
)
def test_a_wrong_asgi_application_is_named_with_what_to_write(path: str | None) -> None:
    with override_settings(ASGI_APPLICATION=path):
        (message,) = check_settings(None)
    assert message.id == "sse_app.E007"
    assert repr(path) in message.msg if path else "not set" in message.msg
    assert "event_stream_application(get_asgi_application())" in (message.hint or "")


def test_djangos_own_handler_as_asgi_application_is_an_error() -> None:
    with override_settings(ASGI_APPLICATION=f"{__name__}.bare_handler"):
        (message,) = check_settings(None)
    assert message.id == "sse_app.E007"
    assert f"{__name__}.bare_handler" in message.msg


@pytest.mark.parametrize("layers", [{}, {"other": {"BACKEND": "channels.layers.x"}}])
def test_a_missing_channel_layer_is_named(layers: dict[str, Any]) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        ((id, message),) = found()
        with pytest.raises(ImproperlyConfigured, match="'default'") as caught:
            event_stream_application(bare_handler)
    assert id == "sse_app.E004"
    for text in (message, str(caught.value)):
        assert "CHANNEL_LAYERS" in text
        assert "InMemoryChannelLayer" in text
        assert all(repr(alias) in text for alias in layers)


def test_the_stream_asked_of_djangos_own_handler_says_what_is_missing() -> None:
    answer = Client().get("/events/?group=orders")
    assert answer.status_code == 501
    text = answer.content.decode()
    assert "asgi.py" in text
    assert "event_stream_application(get_asgi_application())" in text
