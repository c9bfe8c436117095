"""The demo's settings without its logging, and with a group for the benchmarks."""

from project.settings import *  # noqa: F403
from project.settings import SSE_APP

from .publishers import GROUP

ROOT_URLCONF = "benchmarks.urls"
SSE_APP["PUBLIC_GROUPS"] = [GROUP, "own.*"]
del SSE_APP["RETENTION_EVENTS"]  # The default is what is measured.
LOGGING = {"version": 1, "disable_existing_loggers": False}
