"""`manage.py check --deploy`: settings that work in development, but not in production."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from ..access import addresses, authorization, origins
from ..conf import is_in_memory, settings, site_tag
from ..eventlog import DatabaseEventLog, MemoryEventLog, RedisEventLog, event_log

#: The lowest version of each series without known security holes that concern a server of streams.
#: A series that is not listed is compared with the first.
FLOORS: Final[Mapping[str, Sequence[str]]] = {
    "daphne": ["4.2.2"],
    "django": ["5.2.13", "6.0.4"],
    "redis": ["5.0"],
    "twisted": ["24.7"],
}
#: Files beside `manage.py` that start servers.
START_FILES: Final = (
    "Procfile",
    "Dockerfile",
    "Makefile",
    "docker-compose.yml",
    "docker-compose.yaml",
    "compose.yml",
    "compose.yaml",
)
#: A pattern that permits any name, also the names of future groups.
_EVERYTHING: Final = re.compile(r"\*+\Z")
_WAL: Final = re.compile(r"journal_mode\s*=\s*['\"]?wal\b", re.IGNORECASE)
# A line may continue after a backslash; in a list of words, quotes and commas separate them.
_HTTP_TIMEOUT: Final = re.compile(
    r"\bdaphne\b(?:[^\n\\]|\\\n|\\)*?[\s'\"](-t|--http-timeout)[\s=,'\"]*(\d+)"
)


@register("sse_app", deploy=True)
def check_deployment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warn of settings that do not fit production; `checks.settings` reports invalid ones."""
    try:
        settings()
    except ImproperlyConfigured:
        return []
    found: list[CheckMessage] = []
    for check in CHECKS:
        try:
            found += check()
        except ImproperlyConfigured:
            continue
    return found


def _layer() -> Iterator[CheckMessage]:
    if is_in_memory():
        yield Warning(
            f"The channel layer {settings().CHANNEL_LAYER!r} is in-memory and reaches one process "
            "only: non-durable events reach no other process, and each process counts its own "
            "limits.",
            hint="With more than one process: CHANNEL_LAYERS = {'default': {'BACKEND': "
            "'channels_redis.pubsub.RedisPubSubChannelLayer', 'CONFIG': {'hosts': [...]}}}.",
            id="sse_app.W001",
        )


def _log() -> Iterator[CheckMessage]:
    if isinstance(event_log(), MemoryEventLog):
        yield Warning(
            f"SSE_APP['EVENT_LOG'] is {settings().EVENT_LOG!r}: the log is lost when the process "
            "stops, and other processes do not see it.",
            hint="Leave EVENT_LOG out for the database, or use 'sse_app.eventlog.RedisEventLog'.",
            id="sse_app.W002",
        )


def _tag() -> Iterator[CheckMessage]:
    fallbacks = django_settings.SECRET_KEY_FALLBACKS
    if settings().SITE_TAG is not None or not fallbacks:
        return
    if is_in_memory() and not isinstance(event_log(), RedisEventLog):
        return
    yield Warning(
        f"The site tag {site_tag()!r} comes from the last of SECRET_KEY_FALLBACKS. When that key "
        "is removed, the tag changes: processes with the old and the new tag get no events of each "
        "other, and a Redis log with the default prefix starts again, empty.",
        hint=f"SSE_APP = {{'SITE_TAG': {site_tag()!r}, ...}} keeps it.",
        id="sse_app.W014",
    )


def _debug() -> Iterator[CheckMessage]:
    if django_settings.DEBUG:
        yield Warning(
            "DEBUG is True: Django keeps every query of a thread in memory, and error pages show "
            "settings to every visitor.",
            hint="DEBUG = False.",
            id="sse_app.W003",
        )


def _sqlite() -> Iterator[CheckMessage]:
    log = event_log()
    alias = log.alias if isinstance(log, DatabaseEventLog) else None
    if alias is None or alias not in connections or connections[alias].vendor != "sqlite":
        return
    database = connections[alias].settings_dict
    options = database.get("OPTIONS", {})
    mode = options.get("transaction_mode")
    missing = []
    if str(mode).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        missing.append(f"its transaction_mode is {mode!r} and not 'IMMEDIATE'")
    if not (_WAL.search(str(options.get("init_command", ""))) or _has_wal(database["NAME"])):
        missing.append("it is not in WAL mode")
    if missing:
        yield Warning(
            f"The event log is in the SQLite database {alias!r}, and {' and '.join(missing)}: "
            "writers and readers will fail with 'database is locked'.",
            hint=f"DATABASES[{alias!r}]['OPTIONS'] = {{'transaction_mode': 'IMMEDIATE', 'timeout': "
            "20, 'init_command': 'PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL'}.",
            id="sse_app.W004",
        )


def _has_wal(name: object) -> bool:
    """Whether the file's header says WAL (https://www.sqlite.org/fileformat.html, offset 18)."""
    try:
        with Path(str(name)).open("rb") as file:
            return file.read(20)[18:20] == b"\x02\x02"
    except (OSError, ValueError):
        return False


def _versions() -> Iterator[CheckMessage]:
    for name, floors in FLOORS.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        has = _numbers(installed)
        least = next((one for one in floors if _numbers(one)[:2] == has[:2]), floors[0])
        if has < _numbers(least):
            yield Warning(
                f"{name} {installed} is installed; versions before {least} have known security "
                "holes.",
                hint=f"pip install '{name}>={least}'.",
                id="sse_app.W005",
            )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _http_timeout() -> Iterator[CheckMessage]:
    # A running server logs this itself; a check can only read the files that start servers.
    folder = Path(getattr(django_settings, "BASE_DIR", "."))
    for name in START_FILES:
        try:
            text = (folder / name).read_text(errors="replace")
        except OSError:
            continue
        for option, seconds in _HTTP_TIMEOUT.findall(text):
            yield Warning(
                f"{name} starts daphne with {option} {seconds}, which ends every stream after "
                f"{seconds} seconds.",
                hint=f"Leave {option} out.",
                id="sse_app.W006",
            )


def _cookies() -> Iterator[CheckMessage]:
    for name in ("SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE"):
        if not getattr(django_settings, name):
            yield Warning(
                f"{name} is {getattr(django_settings, name)!r}: the cookie, which permits streams "
                "and messages, is also sent over plain HTTP, where it can be read.",
                hint=f"{name} = True.",
                id="sse_app.W007",
            )


def _relative_urls() -> Iterator[CheckMessage]:
    for name in ("STATIC_URL", "MEDIA_URL"):
        # The project's own value: `django.conf.settings` returns it with the prefix already added.
        url = getattr(vars(django_settings)["_wrapped"], name, None)
        if url and not str(url).startswith(("/", "http://", "https://")):
            yield Warning(
                f"{name} is {url!r}, which is relative: Django adds the script prefix of a "
                "process's first request and keeps the result for all later pages.",
                hint=f"{name} = '/{url}'.",
                id="sse_app.W013",
            )


def _public() -> Iterator[CheckMessage]:
    for pattern in authorization.public_patterns():
        if isinstance(pattern, str) and _EVERYTHING.match(pattern):
            yield Warning(
                f"SSE_APP['PUBLIC_GROUPS'] has {pattern!r}: anybody may listen to every group, "
                "including the groups of single users.",
                hint="Name the groups that are public, for example ['news', 'chat.*'].",
                id="sse_app.W008",
            )
    if "*" in django_settings.ALLOWED_HOSTS:
        yield Warning(
            "ALLOWED_HOSTS has '*': a page of any host name that points to this server is treated "
            "as the site's own.",
            hint="Name the hosts, for example ALLOWED_HOSTS = ['www.example.com'].",
            id="sse_app.W009",
        )
    if "null" in origins.allowed_origins():
        yield Warning(
            "SSE_APP['ALLOWED_ORIGINS'] has 'null': a sandboxed frame of any site has this origin.",
            hint="Name origins, for example ['https://www.example.com'].",
            id="sse_app.W010",
        )


def _proxies() -> Iterator[CheckMessage]:
    if not settings().TRUSTED_PROXIES:
        yield Warning(
            "SSE_APP['TRUSTED_PROXIES'] is empty: limits by address do not apply to peers with a "
            "loopback or private address or on a Unix socket, so behind a proxy to no client.",
            hint="SSE_APP['TRUSTED_PROXIES'] = ['127.0.0.1'], ['10.0.0.0/8'] or ['unix']: the "
            "address of the proxy; PROXY_HEADER: the header in which the proxy names the client.",
            id="sse_app.W011",
        )
    for network in addresses.trusted_proxies().networks:
        if network.prefixlen == 0:
            yield Warning(
                f"SSE_APP['TRUSTED_PROXIES'] has {str(network)!r}, which trusts every client: each "
                "can choose the address that its streams are counted for.",
                hint="Name the proxies' own addresses or networks.",
                id="sse_app.W012",
            )


CHECKS: Final = (
    _layer,
    _log,
    _tag,
    _debug,
    _sqlite,
    _versions,
    _http_timeout,
    _cookies,
    _relative_urls,
    _public,
    _proxies,
)
