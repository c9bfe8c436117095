"""`Housekeeping`: deletes events beyond retention, and rows that have expired."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Final

from django.utils import timezone

from ..access import tickets
from ..access.models import Revocation
from ..conf import settings
from ..eventlog import event_log
from ..publishing import idempotency
from ..runtime.callables import in_thread
from ..runtime.services import every, logged
from ..runtime.threads import WRITES

STEP_EVENTS: Final = 500
PAUSE_SECONDS: Final = 0.05


class Housekeeping:
    """A service of the hub, see `HubService`."""

    name: Final = "prune"

    async def start(self, hub: object) -> None:
        """Do nothing: no preparation is needed."""

    async def run(self) -> None:
        """Delete about every `PRUNE_INTERVAL` seconds, until cancelled."""
        # The interval is random, so that processes rarely delete at the same time.
        await every(lambda: settings().PRUNE_INTERVAL * random.uniform(0.5, 1.5), _clean)

    def close(self) -> None:
        """Do nothing: no resource is held."""


def delete_expired() -> None:
    """Delete expired tickets and idempotency records, and revocations of expired grants."""
    tickets.forget_old()
    idempotency.forget_old()
    expired = timezone.now() - timedelta(seconds=settings().GRANT_AGE)
    Revocation.objects.filter(at__lt=expired).delete()


async def _delete_expired() -> None:
    await in_thread(delete_expired, threads=WRITES)


async def _clean() -> None:
    """Delete expired rows and events. The log is pruned in steps, so publishers wait shortly."""
    # The rows may be in another database than the log, and one of the two away.
    await logged(_delete_expired)
    log = event_log()
    if log.prunes_itself:
        return
    pruned = STEP_EVENTS
    while pruned == STEP_EVENTS:
        pruned = await log.aprune(STEP_EVENTS)
        await asyncio.sleep(PAUSE_SECONDS)
