"""django-eventstream as its README sets it up: its own URLs, and `send_event` in the server.

Django's settings are those that `startproject` makes. There is no event storage, which is its
default: with one, every event would be a row. `send_event` is called in the event loop, as from an
async view: without storage it waits for nothing, and a thread would only add to it.
"""

from __future__ import annotations

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="benchmarks",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
            "django_eventstream",
        ],
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
    )
    django.setup()

import django_eventstream
from django.core.asgi import get_asgi_application
from django.urls import include, path

from ...publishers import GROUP
from .pacing import NAME, paced

urlpatterns = [
    path("events/", include("django_eventstream.urls"), {"channels": [GROUP]}),
    # The channels that the query names.
    path("own/", include("django_eventstream.urls")),
]


async def _publish(group: str, text: str) -> None:
    django_eventstream.send_event(group, NAME, text)


# No id without storage; the data is quoted as JSON.
eventstream = paced(get_asgi_application(), _publish, frame=38)
