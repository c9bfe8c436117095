"""Idempotency keys: a request that is repeated under the same key acts once.

The stored answer and the act are one transaction. A second request with the same key waits for the
commit of the first, on the unique key (PostgreSQL) or the write lock (SQLite), and then finds its
answer. After a rollback of the first it finds no answer, and acts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db import IntegrityError, OperationalError, transaction
from django.db.models import QuerySet
from django.utils import timezone

from ..conf import written
from .models import HandledMessage

KEEP: Final = timedelta(hours=24)
ATTEMPTS: Final = 3
STEP_ROWS: Final = 500

_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")


@dataclass(frozen=True)
class Answer:
    """The answer to a request: `text` is JSON; `replayed`: it is the answer to an earlier one."""

    status: int
    text: str
    replayed: bool = False


class BodyMismatch(Exception):
    """The key belongs to an earlier request with another body."""


def validate_key(key: str) -> str:
    """Return `key` if it is 1 to 128 visible ASCII characters, else raise `ValueError`."""
    if not _KEY.match(key):
        raise ValueError(f"Invalid idempotency key {key!r}: 1 to 128 visible ASCII characters.")
    return key


def digest_of(*parts: object) -> str:
    """Return a digest of `parts`, which are JSON; ("a", "bc") and ("ab", "c") differ."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_once(key: str, body: str, act: Callable[[], Answer]) -> Answer:
    """Return the answer of `act()`; for repeats within 24 hours, return it without calling `act`.

    `key` is a digest of the sender, the address and the client's key, `body` one of the content.
    `act` runs inside `transaction.atomic()` on the database of `HandledMessage`; after an exception
    of `act`, which the caller gets, nothing is stored and a repeat calls `act` again. Changes in
    that database are made exactly once; other effects are repeated if the commit fails. Raises
    `BodyMismatch` for a repeat with another `body`, and `django.db.OperationalError` if the
    database stops waiting for the first request.
    """
    rows = written(HandledMessage)
    for _ in range(ATTEMPTS):
        with transaction.atomic(using=rows.db):
            if _claim(rows, key):
                answer = act()
                kept = json.dumps([body, answer.text])
                rows.filter(digest=key).update(status=answer.status, answer=kept)
                return answer
        row = rows.filter(digest=key).first()
        # None: the row was deleted meanwhile, so the key is free; or the caller's transaction has
        # a snapshot older than the row, and will not see it.
        if row is not None:
            return _replay(row, body)
    raise OperationalError("An idempotency key is taken, and its answer can't be seen yet.")


def _claim(rows: QuerySet[HandledMessage], key: str) -> bool:
    # Insert before any read of the transaction: SQLite can refuse to turn a reading transaction
    # into a writing one, and only an insert waits for the request that holds the key.
    try:
        with transaction.atomic(using=rows.db):
            rows.create(digest=key, created_at=timezone.now())
    except IntegrityError:
        return False
    return True


def _replay(row: HandledMessage, body: str) -> Answer:
    kept, text = json.loads(row.answer)
    if kept != body:
        raise BodyMismatch
    return Answer(row.status or 200, text, replayed=True)


def forget_old(limit: int | None = None) -> int:
    """Delete answers older than 24 hours, at most `limit` (None: all); return how many.

    Each step of `STEP_ROWS` is a short transaction. Several processes may run this in parallel.
    """
    rows = written(HandledMessage)
    old = rows.filter(created_at__lt=timezone.now() - KEEP).order_by("created_at")
    gone = 0
    while limit is None or gone < limit:
        most = STEP_ROWS if limit is None else min(STEP_ROWS, limit - gone)
        found = list(old.values_list("digest", flat=True)[:most])
        gone += rows.filter(digest__in=found).delete()[0] if found else 0
        if len(found) < most:
            break
    return gone
