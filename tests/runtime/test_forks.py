"""Forked children: what the parent's threads held is free."""

from __future__ import annotations

import _thread
import importlib
import os
import pkgutil
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from django.dispatch import Signal

import sse_app

LOCKS = (_thread.LockType, type(threading.RLock()))


def locks() -> Iterator[tuple[str, Any]]:
    """Every lock that a module of the app has, or an object of the app that a module has."""
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("sse_app."):
            continue
        for variable, value in list(vars(module).items()):
            if isinstance(value, LOCKS):
                yield f"{name}.{variable}", value
            # Signals have a lock of Django's, which none of Django's own signals replaces either.
            elif type(value).__module__.startswith("sse_app.") and not isinstance(value, Signal):
                for attribute, part in getattr(value, "__dict__", {}).items():
                    if isinstance(part, LOCKS):
                        yield f"{name}.{variable}.{attribute}", part


def test_no_lock_of_the_parent_is_held_in_a_forked_child() -> None:
    for module in pkgutil.walk_packages(sse_app.__path__, "sse_app."):
        if ".migrations." not in module.name:
            importlib.import_module(module.name)
    held = dict(locks())
    assert {"sse_app.delivery.subscriptions._lock", "sse_app.publishing.outbox._lock"} <= {*held}
    with ExitStack() as stack:
        for lock in {id(lock): lock for lock in held.values()}.values():
            stack.enter_context(lock)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            inherited = [
                name for name, lock in locks() if any(lock is one for one in held.values())
            ]
            os.write(writing, ", ".join(inherited).encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == ""
