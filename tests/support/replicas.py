"""A database router as a project with a read replica has it; the replica never catches up alone."""

from __future__ import annotations

from typing import Any


class Router:
    """Users, and what they may, are read from the replica."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "replica" if model._meta.app_label == "auth" else None

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return True
