"""Settings of the tests: the demo's, with what a test asks of the server by environment."""

import json
import os

os.environ.setdefault("DEBUG", "1")

from project.settings import *  # noqa: F403
from project.settings import SSE_APP

ROOT_URLCONF = "tests.urls"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
SSE_APP = {**SSE_APP, **json.loads(os.environ.get("TEST_SSE_APP", "{}"))}
