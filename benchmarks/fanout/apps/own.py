"""This app in the demo site; the layer and the log are the settings'."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.fanout.settings")
django.setup()

from project.asgi import application as project  # noqa: E402 - it needs the settings
from sse_app import apublish, apublish_many  # noqa: E402

from .pacing import NAME, paced  # noqa: E402

own = paced(
    project,
    lambda group, text: apublish(group, NAME, text),
    many=lambda groups, text: apublish_many([(group, NAME, text) for group in groups]),
)
