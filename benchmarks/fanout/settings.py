"""The benchmarks' settings for one server on 127.0.0.1 with thousands of streams."""

import os

from ..settings import *  # noqa: F403
from ..settings import CHANNEL_LAYERS, SSE_APP

# A stream that has just been closed may still be counted when the next 5,000 come.
SSE_APP["STREAMS_PER_PROCESS"] = 40_000
if os.environ.get("BENCH_LAYER") == "core":
    # With redis-py's own defaults, 100 connections and 5 s, a few hundred streams that open at
    # once or wait for long end with an exception of the layer's.
    _host = {"address": os.environ["REDIS_URL"], "max_connections": 8_000, "socket_timeout": None}
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [_host]},
    }
