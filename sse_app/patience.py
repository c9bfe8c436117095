"""`run_patiently()`: a subscription that outlives failures of its event log."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from .feed import Feed
from .records import about
from .subscriptions import Subscription

PATIENCE_SECONDS: Final = 1.0

logger = logging.getLogger("sse_app")


async def run_patiently(subscription: Subscription, feed: Feed) -> str:
    """See `Subscription.run()`; where the event log can't be read, try again until it can."""
    while True:
        try:
            return await subscription.run(feed)
        except Exception as error:
            # It stands where it stood, so nothing is lost by waiting.
            logger.warning(
                "The event log can't be read: %r",
                error,
                extra=about(groups=subscription.groups, error=error),
            )
            await asyncio.sleep(PATIENCE_SECONDS)
