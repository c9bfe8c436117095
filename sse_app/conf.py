"""The project's configuration: the `SSE_APP` setting, the channel layer and the databases.

`Settings` is a frozen dataclass of defaults. `SSE_APP` is read at first use. The values are not
validated here: `sse_app.checks.settings` reports all errors together.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channels.exceptions import InvalidChannelLayerError
from channels.layers import InMemoryChannelLayer, channel_layers, get_channel_layer
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import router
from django.dispatch import receiver
from django.utils.crypto import salted_hmac
from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from django.db.models import Model, QuerySet

    _Row = TypeVar("_Row", bound=Model)

#: At most 10 characters: Channels allows 99 for the name of a layer group, and a group has 80.
#: No dot: the tag `a.b` with the group `c` must differ from the tag `a` with the group `b.c`.
_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,10}\Z", re.ASCII)
#: Short, since a group's full name, namespace included, has at most 80 characters. No dot, which
#: ends the namespace in the full name.
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_-]{1,30}\Z", re.ASCII)
_entered: Final = ContextVar[str | None]("sse_app.namespace", default=None)
#: The settings on which the site tag depends.
TAG_SETTINGS: Final = frozenset({"SSE_APP", "SECRET_KEY", "SECRET_KEY_FALLBACKS"})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every key of `SSE_APP` with its default. Times are in seconds, sizes in bytes."""

    EVENT_LOG: str | Mapping[str, Any] = "sse_app.eventlog.DatabaseEventLog"
    CHANNEL_LAYER: str = "default"
    SITE_TAG: str | None = None
    PUBLIC_GROUPS: Sequence[str] = ()
    MAY_LISTEN: str | None = None
    MAY_SPEAK: str | None = None
    NAMESPACE: str | None = None
    STREAM_CONTEXT: str | None = None
    AUTHENTICATE: str | Sequence[str] = ()
    POLICY_SECONDS: float = 10.0
    GRANT_AGE: float = 24 * 3600.0
    ALLOWED_ORIGINS: Sequence[str] = ()
    TRUSTED_PROXIES: Sequence[str] = ()
    PROXY_HEADER: str = "X-Forwarded-For"
    METRICS_ADDRESSES: Sequence[str] = ()
    PRESENCE_GROUPS: Sequence[str] = ()
    PRESENCE_GRACE: float = 6.0
    PRESENCE_DATA: str | None = None
    STREAMS_PER_USER: int | None = 20
    STREAMS_PER_SESSION: int | None = 10
    STREAMS_PER_ADDRESS: int | None = 200
    STREAMS_PER_ANONYMOUS_ADDRESS: int | None = 100
    STREAMS_PER_PROCESS: int | None = 5000
    SPEAK_RATE: float = 10.0
    SPEAK_BURST: int = 20
    REVALIDATE_INTERVAL: float = 30.0
    HEARTBEAT: float = 15.0
    RETRY: tuple[float, float] = (2.0, 5.0)
    STREAM_LIFE: float = 15 * 60.0
    PUBLIC_STREAM_LIFE: float = 6 * 3600.0
    MAX_EVENT_BYTES: int = 64 * 1024
    MAX_BODY_BYTES: int = 128 * 1024
    MAX_GROUPS: int = 20
    REPLAY_EVENTS: int | None = None
    RETENTION_SECONDS: float | None = 24 * 3600.0
    RETENTION_EVENTS: int = 10_000
    RETAIN: Mapping[str, int] = dataclasses.field(default_factory=dict)
    SNAPSHOT_BYTES: int = 1024 * 1024
    SNAPSHOT_SECONDS: float = 10.0
    QUEUE_EVENTS: int = 256
    QUEUE_BYTES: int = 1024 * 1024
    STALL_SECONDS: float = 30.0
    CHECK_INTERVAL: float | None = None
    SWEEP_INTERVAL: float = 2.0
    PRUNE_INTERVAL: float = 600.0


KEYS = frozenset(field.name for field in dataclasses.fields(Settings))


@cache
def settings() -> Settings:
    """Return the current settings, cached until Django sends `setting_changed`.

    Raises `ImproperlyConfigured` if `SSE_APP` is not a dict or has an unknown key.
    """
    given = getattr(django_settings, "SSE_APP", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"SSE_APP must be a dict, not {type(given).__name__}.")
    unknown = sorted(set(given) - KEYS)
    if unknown:
        raise ImproperlyConfigured(
            f"SSE_APP has unknown keys: {', '.join(map(repr, unknown))}. "
            f"The keys are: {', '.join(sorted(KEYS))}."
        )
    return Settings(**given)


@cache
def site_tag() -> str:
    """Return the name that separates this site from others on the same Redis.

    The tag is `SSE_APP["SITE_TAG"]`, by default 8 digits of a digest of the last key in
    `SECRET_KEY_FALLBACKS`, else of `SECRET_KEY`. So after a rotation of the key the tag stays the
    same as long as the old key is a fallback. Raises `ImproperlyConfigured` for an invalid tag.
    """
    tag = settings().SITE_TAG
    if tag is None:
        key = [django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS][-1]
        return salted_hmac("sse_app.site_tag", "", key, algorithm="sha256").hexdigest()[:8]
    if not isinstance(tag, str) or not _TAG.match(tag):
        raise ImproperlyConfigured(
            f"SSE_APP['SITE_TAG'] is {tag!r}; it must be 1 to 10 ASCII letters, digits, '_' and "
            "'-', for example 'shop', or None for a digest of the secret key."
        )
    return tag


def namespace() -> str:
    """Return the namespace of the groups that the caller names: the tenant, "" without tenants.

    That of the stream that is being served, else the answer of the function `NAMESPACE`. Raises
    `ImproperlyConfigured` for an invalid answer, and the errors of importing and calling it.
    """
    entered = _entered.get()
    if entered is not None:
        return entered
    path = settings().NAMESPACE
    if path is None:
        return ""
    name: object = import_string(path)()
    if isinstance(name, str) and (not name or _NAMESPACE.match(name)):
        return name
    raise ImproperlyConfigured(
        f"SSE_APP['NAMESPACE'], {path!r}, returned {name!r}; it must return 1 to 30 ASCII letters, "
        "digits, '_' and '-', for example 'red', or '' for what belongs to no tenant."
    )


def enter_namespace(name: str) -> None:
    """From now on, in this context, `namespace()` returns `name`."""
    _entered.set(name)


@contextmanager
def within_namespace(name: str) -> Iterator[None]:
    """Within the block, `namespace()` returns `name`."""
    token = _entered.set(name)
    try:
        yield
    finally:
        _entered.reset(token)


def channel_layer() -> Any:
    """Return the channel layer that `SSE_APP["CHANNEL_LAYER"]` names.

    Raises `ImproperlyConfigured` if no layer has that name, or if its package is missing.
    """
    alias = settings().CHANNEL_LAYER
    try:
        layer = get_channel_layer(alias)
    except InvalidChannelLayerError as error:
        package = str(getattr(error.__context__, "name", "")).partition(".")[0]
        if package not in {"channels_redis", "redis"}:
            raise
        raise ImproperlyConfigured(
            f'CHANNEL_LAYERS[{alias!r}] needs the package {package}: pip install "sse-app[redis]".'
        ) from error
    if layer is None:
        known = ", ".join(map(repr, channel_layers.configs)) or "none"
        raise ImproperlyConfigured(
            f"SSE_APP['CHANNEL_LAYER'] is {alias!r}, but CHANNEL_LAYERS has {known}. For one "
            "process: CHANNEL_LAYERS = {'default': {'BACKEND': "
            "'channels.layers.InMemoryChannelLayer'}}."
        )
    return layer


def is_in_memory() -> bool:
    """Whether the channel layer is in this process only."""
    return isinstance(channel_layer(), InMemoryChannelLayer)


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in TAG_SETTINGS:
        settings.cache_clear()
        site_tag.cache_clear()


def stored_time(at: float) -> datetime:
    """Return the Unix time `at` as a value of a `DateTimeField`: naive with `USE_TZ = False`."""
    return datetime.fromtimestamp(at, tz=UTC if django_settings.USE_TZ else None)


def written(model: type[_Row]) -> QuerySet[_Row]:
    """Return all rows of `model`, from the database that the project's routers write it to.

    A replica may lack a new row, or still have a deleted one, for example of a right that has
    ended. `.db` is the name of the database. Rows that the model's own manager hides are included.
    """
    return model._base_manager.using(router.db_for_write(model))
