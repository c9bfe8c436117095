"""System checks: which settings are invalid, and which values are valid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.urls import NoReverseMatch, reverse
from django.utils.module_loading import import_string

from ..access import addresses, authenticators, authorization, origins
from ..conf import channel_layer, settings, site_tag
from ..eventlog import database, event_log, retention
from ..presence import roster
from ..protocol.cursors import MAX_BYTES
from ..protocol.groups import validate_pattern


@register("sse_app")
def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check `SSE_APP`, the channel layer and `ASGI_APPLICATION`."""
    try:
        settings()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="sse_app.E001")]
    return [
        *_values(),
        *_retention(),
        *_layer(),
        *_log(),
        *_policies(),
        *_tenants(),
        *_edge(),
        *_asgi(),
        *_urls(),
    ]


def _values() -> Iterator[CheckMessage]:
    for key, patterns in (
        ("PUBLIC_GROUPS", authorization.public_patterns),
        ("PRESENCE_GROUPS", roster.patterns),
    ):
        try:
            for pattern in patterns():
                validate_pattern(pattern)
        except (ValueError, ImproperlyConfigured) as error:
            yield Error(f"SSE_APP[{key!r}]: {error}", id="sse_app.E002")
    for key in _POSITIVE:
        value = getattr(settings(), key)
        if value is None and key in _OPTIONAL:
            continue
        if not _is_positive(value):
            yield Error(
                f"SSE_APP[{key!r}] is {value!r}; it must be a number above 0 and up to "
                f"{_MOST:.0f}{', or None' if key in _OPTIONAL else ''}.",
                id="sse_app.E003",
            )
    most = settings().MAX_GROUPS
    if _is_positive(most) and most > _MOST_GROUPS:
        yield Error(
            f"SSE_APP['MAX_GROUPS'] is {most!r}; with more than {_MOST_GROUPS} an event id may be "
            f"longer than {MAX_BYTES} bytes, and each reconnect would be a reset.",
            id="sse_app.E003",
        )
    retry = settings().RETRY
    if not (
        isinstance(retry, tuple | list)
        and len(retry) == 2
        and all(map(_is_positive, retry))
        and retry[0] <= retry[1]
    ):
        yield Error(
            f"SSE_APP['RETRY'] is {retry!r}; it must be two numbers of seconds, the lowest and "
            "the highest, for example (2.0, 5.0).",
            id="sse_app.E003",
        )


def _retention() -> Iterator[CheckMessage]:
    if not _is_positive(settings().RETENTION_EVENTS):
        return  # Reported by `_values()`; RETAIN has no bound to be compared with.
    try:
        retention.retained_patterns()
    except ImproperlyConfigured as error:
        yield Error(str(error), id="sse_app.E012")


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= _MOST


_LIMITS = (
    "STREAMS_PER_USER",
    "STREAMS_PER_SESSION",
    "STREAMS_PER_ADDRESS",
    "STREAMS_PER_ANONYMOUS_ADDRESS",
    "STREAMS_PER_PROCESS",
)
_OPTIONAL = {"REPLAY_EVENTS", "RETENTION_SECONDS", "CHECK_INTERVAL", *_LIMITS}
#: A hundred years in seconds. Dates and the integers of databases overflow at larger numbers.
_MOST = retention.MOST_SECONDS
#: So many groups fit into an id, each with 8 characters of its hash and of its epoch, at most 18
#: digits, a mark of 4, and 3 separators.
_MOST_GROUPS = MAX_BYTES // (8 + 8 + 18 + 4 + 3)
_POSITIVE = (
    *_LIMITS,
    "POLICY_SECONDS",
    "GRANT_AGE",
    "PRESENCE_GRACE",
    "SPEAK_RATE",
    "SPEAK_BURST",
    "REVALIDATE_INTERVAL",
    "HEARTBEAT",
    "STREAM_LIFE",
    "PUBLIC_STREAM_LIFE",
    "MAX_EVENT_BYTES",
    "MAX_BODY_BYTES",
    "MAX_GROUPS",
    "REPLAY_EVENTS",
    "RETENTION_SECONDS",
    "RETENTION_EVENTS",
    "SNAPSHOT_BYTES",
    "SNAPSHOT_SECONDS",
    "QUEUE_EVENTS",
    "QUEUE_BYTES",
    "STALL_SECONDS",
    "CHECK_INTERVAL",
    "SWEEP_INTERVAL",
    "PRUNE_INTERVAL",
)


def _layer() -> Iterator[CheckMessage]:
    try:
        channel_layer()
    except Exception as error:
        yield Error(str(error), id="sse_app.E004")


def _log() -> Iterator[CheckMessage]:
    try:
        alias = event_log().alias
    except ImproperlyConfigured as error:
        yield Error(str(error), id="sse_app.E005")
        return
    if alias is None:
        return
    if alias not in connections:
        known = ", ".join(map(repr, connections))
        yield Error(
            f"SSE_APP['EVENT_LOG'] uses the database {alias!r}, but DATABASES has {known}.",
            id="sse_app.E005",
        )
    elif connections[alias].vendor not in database.VENDORS:
        yield Error(
            f"SSE_APP['EVENT_LOG'] is on {connections[alias].vendor}, but DatabaseEventLog needs "
            f"one of: {', '.join(database.VENDORS)}.",
            id="sse_app.E005",
        )
    elif not connections[alias].settings_dict["AUTOCOMMIT"]:
        yield Error(
            f"SSE_APP['EVENT_LOG'] is on the database {alias!r}, whose AUTOCOMMIT is False: the "
            "log's transactions would never be committed. Remove AUTOCOMMIT from DATABASES.",
            id="sse_app.E005",
        )


def _policies() -> Iterator[CheckMessage]:
    for read in (
        partial(authorization.policy, "MAY_LISTEN"),
        partial(authorization.policy, "MAY_SPEAK"),
        partial(authorization.policy, "NAMESPACE"),
        partial(authorization.policy, "STREAM_CONTEXT"),
        partial(authorization.policy, "PRESENCE_DATA"),
        authenticators.authenticators,
    ):
        try:
            read()
        except ImproperlyConfigured as error:
            yield Error(str(error), id="sse_app.E006")


def _tenants() -> Iterator[CheckMessage]:
    engines = [str(database.get("ENGINE")) for database in django_settings.DATABASES.values()]
    if not any(engine.startswith("django_tenants") for engine in engines):
        return
    if settings().NAMESPACE is None or settings().STREAM_CONTEXT is None:
        yield Error(
            "The project has django-tenants, but not both of SSE_APP['NAMESPACE'] and "
            "SSE_APP['STREAM_CONTEXT']: one tenant would read what another one publishes.",
            hint="See docs/access/tenants.md, which has both functions.",
            id="sse_app.E014",
        )
    types = getattr(django_settings, "TENANT_TYPES", {})
    own = [apps for name, of in types.items() if name != "public" for apps in of.get("APPS", ())]
    if any(str(app).split(".")[0] == "sse_app" for app in [*_listed("TENANT_APPS"), *own]):
        yield Error(
            "TENANT_APPS has sse_app: each tenant would have an event log that no stream reads.",
            hint="List sse_app in SHARED_APPS only.",
            id="sse_app.E014",
        )


def _listed(name: str) -> Sequence[object]:
    found: Sequence[object] = getattr(django_settings, name, ())
    return found


def _edge() -> Iterator[CheckMessage]:
    for read, id in (
        (addresses.trusted_proxies, "sse_app.E008"),
        (addresses.metrics_networks, "sse_app.E011"),
        (addresses.proxy_header, "sse_app.E009"),
        (origins.allowed_origins, "sse_app.E010"),
        (site_tag, "sse_app.E013"),
    ):
        try:
            read()
        except ImproperlyConfigured as error:
            yield Error(str(error), id=id)


def _asgi() -> Iterator[CheckMessage]:
    path = getattr(django_settings, "ASGI_APPLICATION", None)
    hint = (
        "In asgi.py: application = event_stream_application(get_asgi_application()); in the "
        "settings: ASGI_APPLICATION = '<project>.asgi.application'."
    )
    if not path:
        yield Error("ASGI_APPLICATION is not set.", hint=hint, id="sse_app.E007")
        return
    try:
        application = import_string(path)
    except Exception as error:
        yield Error(
            f"ASGI_APPLICATION is {path!r}, which can't be imported ({error!r}).",
            hint=hint,
            id="sse_app.E007",
        )
        return
    if isinstance(application, ASGIHandler):
        yield Error(
            f"ASGI_APPLICATION is {path!r}, Django's own handler, which serves no streams.",
            hint=hint,
            id="sse_app.E007",
        )


def _urls() -> Iterator[CheckMessage]:
    """A project may also route streams by itself, so this is a warning."""
    path = getattr(django_settings, "ROOT_URLCONF", None)
    try:
        reverse("sse_app:stream", urlconf=path)
    except NoReverseMatch:
        yield Warning(
            f"The URLs of sse_app are not in {path}, so the template tags have no address.",
            hint="Add path('events/', include('sse_app.urls')) to its urlpatterns.",
            id="sse_app.W015",
        )
    except Exception:
        return  # Django's own check of the URLs says why they can't be imported.
