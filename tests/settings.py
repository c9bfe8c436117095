"""Settings of the tests: the demo's, with what a test asks of the server by environment."""

import json
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("DEBUG", "1")

from project.settings import *  # noqa: F403
from project.settings import CHANNEL_LAYERS, DATABASES, INSTALLED_APPS, SSE_APP

ROOT_URLCONF = "tests.urls"
INSTALLED_APPS = [*INSTALLED_APPS, "tests.shop"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
del SSE_APP["RETENTION_EVENTS"]  # The tests want the default.
SSE_APP = {**SSE_APP, **json.loads(os.environ.get("TEST_SSE_APP", "{}"))}

# Django's own settings that a test asks for: a session engine, older keys.
globals().update(json.loads(os.environ.get("TEST_DJANGO", "{}")))

if path := os.environ.get("TEST_LOGGING_BY"):
    # The example of a page of the documentation, as a project would take it over.
    _page = Path(path).read_text()
    exec(re.search(r"^(LOGGING = \{.*?^\})$", _page, re.MULTILINE | re.DOTALL)[1])  # type: ignore[index]
if layer := os.environ.get("TEST_LAYER"):
    CHANNEL_LAYERS["default"]["BACKEND"] = layer
if _chaos := os.environ.get("TEST_CHAOS_LAYER"):
    CHANNEL_LAYERS["default"]["BACKEND"] = "tests.support.layers.ChaosLayer"
    CHANNEL_LAYERS["default"]["CONFIG"] |= json.loads(_chaos)


def _postgresql(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": os.environ["TEST_POSTGRES_HOST"],
        "PORT": os.environ["TEST_POSTGRES_PORT"],
        "USER": os.environ["TEST_POSTGRES_USER"],
    }


if "TEST_POSTGRES_HOST" in os.environ:
    if name := os.environ.get("TEST_POSTGRES_NAME"):
        # For a server process: it works on the database that the test made.
        DATABASES["default"] = _postgresql(name)
    else:
        DATABASES["postgresql"] = _postgresql("postgres")

if "DATABASE_URL" not in os.environ and "TEST_FOLDER" in os.environ:
    # A file and not memory: other threads and the watcher open it too.
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(os.environ["TEST_FOLDER"], "test.sqlite3")}
