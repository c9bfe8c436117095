"""What each kind of log keeps its events in: to lose it, to copy it, to put a copy back."""

from __future__ import annotations

import uuid
from copy import deepcopy
from typing import Any

import redis
from django.db import transaction

from sse_app.eventlog import event_log
from sse_app.models import GroupHead, StoredEvent


class Store:
    """Of one log; `alias` is the database whose transactions its events join."""

    alias: str | None = None
    outlives_process = True
    can_copy = True

    def __init__(self, setting: Any) -> None:
        self.setting = setting

    def lose(self) -> None:
        raise NotImplementedError

    def copy(self) -> Any:
        raise NotImplementedError

    def restore(self, copy: Any) -> None:
        raise NotImplementedError


class MemoryStore(Store):
    outlives_process = False
    can_copy = False

    def lose(self) -> None:
        pass  # It goes with the log object.

    def copy(self) -> Any:
        return deepcopy(event_log()._logs)  # type: ignore[attr-defined]  # it is a MemoryEventLog

    def restore(self, copy: Any) -> None:
        event_log()._logs = deepcopy(copy)  # type: ignore[attr-defined]


class DatabaseStore(Store):
    def __init__(self, alias: str) -> None:
        super().__init__({"BACKEND": "sse_app.eventlog.DatabaseEventLog", "ALIAS": alias})
        self.alias = alias

    def lose(self) -> None:
        self.restore(([], []))

    def copy(self) -> Any:
        return [list(kind.objects.using(self.alias)) for kind in (GroupHead, StoredEvent)]

    def restore(self, copy: Any) -> None:
        with transaction.atomic(using=self.alias):
            for kind, rows in zip((GroupHead, StoredEvent), copy, strict=True):
                kind.objects.using(self.alias).all().delete()
                kind.objects.using(self.alias).bulk_create(rows)


class RedisStore(Store):
    def __init__(self, url: str) -> None:
        self.prefix = f"test.{uuid.uuid4().hex}"
        super().__init__(
            {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": url, "PREFIX": self.prefix}
        )
        self.client = redis.Redis.from_url(url)

    def _keys(self) -> list[bytes]:
        return list(self.client.scan_iter(match=f"{self.prefix}:*", count=1000))

    def lose(self) -> None:
        if keys := self._keys():
            self.client.delete(*keys)

    def copy(self) -> Any:
        return {key: self.client.dump(key) for key in self._keys()}

    def restore(self, copy: Any) -> None:
        self.lose()
        for key, value in copy.items():
            self.client.restore(key, 0, value)
