"""The event log: every event of a group once, in order, with contiguous offsets.

Lost events are read from the log again. The log knows nothing of the channel layer, of streams or
of access.

Public: the names of this package. Private: its modules. `contract.EventLog` says what every log
promises; `memory`, `database` and `redis` implement it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from ..conf import TAG_SETTINGS, settings
from .contract import Discontinuity, EventLog
from .database import DatabaseEventLog
from .failures import LogUnavailable, NotReplicated, PartlyStored
from .memory import MemoryEventLog
from .redis import RedisEventLog

__all__ = [
    "DatabaseEventLog",
    "Discontinuity",
    "EventLog",
    "LogUnavailable",
    "MemoryEventLog",
    "NotReplicated",
    "PartlyStored",
    "RedisEventLog",
    "event_log",
    "make_event_log",
]


def make_event_log(setting: str | Mapping[str, Any]) -> EventLog:
    """Return the log that the setting `EVENT_LOG` describes.

    The setting is a dotted path, or a dict with the path as `BACKEND` and the log's options in
    capitals. Raises `ImproperlyConfigured` for a path that can't be imported, a class that is not
    an `EventLog`, or an unknown option.
    """
    if not isinstance(setting, str | Mapping):
        raise ImproperlyConfigured(
            f"SSE_APP['EVENT_LOG'] is {setting!r}; it must be a dotted path or a dict with one."
        )
    options = {"BACKEND": setting} if isinstance(setting, str) else dict(setting)
    path = str(options.pop("BACKEND", ""))
    try:
        kind = import_string(path)
    except (ImportError, AttributeError, TypeError) as error:
        raise ImproperlyConfigured(
            f"SSE_APP['EVENT_LOG'] names {path!r}, which can't be imported ({error}); "
            "the default is 'sse_app.eventlog.DatabaseEventLog'."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, EventLog)):
        raise ImproperlyConfigured(
            f"SSE_APP['EVENT_LOG'] names {path!r}, which is not an EventLog."
        )
    try:
        return kind(**{name.lower(): value for name, value in options.items()})
    except TypeError as error:
        raise ImproperlyConfigured(
            f"SSE_APP['EVENT_LOG'] has options that {path} does not take: {error}."
        ) from error


@cache
def event_log() -> EventLog:
    """Return the configured log; made at the first call, and again after the setting changed."""
    return make_event_log(settings().EVENT_LOG)


@receiver(setting_changed)
def _clear_cache(*, setting: str, **kwargs: Any) -> None:
    if setting in TAG_SETTINGS:
        event_log.cache_clear()
