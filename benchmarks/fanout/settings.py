"""The benchmarks' settings for one server on 127.0.0.1 with thousands of streams."""

import os

from ..settings import *  # noqa: F403
from ..settings import CHANNEL_LAYERS, SSE_APP

# A stream that has just been closed may still be counted when the next 5,000 come.
SSE_APP["STREAMS_PER_PROCESS"] = 20_000
if os.environ.get("BENCH_LAYER") == "core":
    CHANNEL_LAYERS["default"]["BACKEND"] = "channels_redis.core.RedisChannelLayer"
