"""A repeated request acts once: the answer is kept under the key that the client chose.

Key and act are one transaction. A second request with the same key waits for the first one's
commit, on the unique key (PostgreSQL) or the write lock (SQLite), and then finds its answer; after
a rollback it finds nothing and acts itself.
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
    """What a request is answered: `text` is JSON; `replayed` if an earlier one was answered so."""

    status: int
    text: str
    replayed: bool = False


class BodyMismatch(Exception):
    """The key belongs to an earlier request that said something else."""


def validate_key(key: str) -> str:
    """Return `key` if it is 1 to 128 visible ASCII characters, else raise `ValueError`."""
    if not _KEY.match(key):
        raise ValueError(f"Invalid idempotency key {key!r}: 1 to 128 visible ASCII characters.")
    return key


def digest_of(*parts: object) -> str:
    """Return a digest of `parts`, which are JSON; it tells ("a", "bc") from ("ab", "c")."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def run_once(key: str, body: str, act: Callable[[], Answer]) -> Answer:
    """Return what `act()` answers, and to every repeat within 24 hours the same without it.

    `key` and `body` are digests of who asks for what under which key, and of what is said.
    `act` runs inside `transaction.atomic()` on the database of `HandledMessage`; what it raises
    is passed on, and then nothing is kept and a repeat acts anew. It acts exactly once as far as
    it works on that database: what it does elsewhere is done again if the commit fails. Raises
    `BodyMismatch` for a repeat whose `body` differs, and `django.db.OperationalError` where the
    database gives up waiting for the first one.
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
        # None: it was forgotten in between, and the key is free; or the caller's transaction
        # reads from a snapshot older than the row, and will as long as it lasts.
        if row is not None:
            return _replay(row, body)
    raise OperationalError("An idempotency key is taken, and its answer can't be seen yet.")


def _claim(rows: QuerySet[HandledMessage], key: str) -> bool:
    # The insert comes first in its transaction, before anything is read: SQLite refuses to turn
    # a reader into a writer, and only an insert waits for whoever holds the key.
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
    """Delete answers older than 24 hours, at most `limit` (None: all); return how many went.

    In steps of `STEP_ROWS`, each a short transaction of its own, so nobody waits long. It may run
    in several processes at once.
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
