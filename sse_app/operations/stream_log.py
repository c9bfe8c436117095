"""Logs the opening and the end of every stream, at INFO, as receivers of the app's own signals."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..runtime.telemetry import log_fields
from ..signals import stream_closed, stream_opened

logger = logging.getLogger("sse_app")


def connect_signals() -> None:
    """Start to log streams; called once the apps are ready."""
    stream_opened.connect_own(_opened)
    stream_closed.connect_own(_closed)


def _opened(sender: Any, stream: Any, **kwargs: Any) -> None:
    if logger.isEnabledFor(logging.INFO):
        groups = ", ".join(stream.groups)
        logger.info("Stream %s opened: %s.", stream.id, groups, extra=_stream_log_fields(stream))


def _closed(sender: Any, stream: Any, **kwargs: Any) -> None:
    if logger.isEnabledFor(logging.INFO):
        reason, seconds = stream.close_reason or "error", time.time() - stream.opened_at
        logger.info(
            "Stream %s closed after %.1f s: %s.",
            *(stream.id, seconds, reason),
            extra=_stream_log_fields(stream)
            | log_fields(reason=reason, seconds=seconds, bytes=stream.bytes_sent),
        )


def _stream_log_fields(stream: Any) -> dict[str, Any]:
    return log_fields(
        stream=stream.id,
        user=stream.user_key or None,
        address=stream.address or None,
        groups=stream.groups,
    )
