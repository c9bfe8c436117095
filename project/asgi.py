"""The ASGI application: Django, with the event streams in front of it."""

import os

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_asgi_application()

from sse_app.asgi import event_stream_application  # noqa: E402 - it needs the loaded apps

if settings.DEBUG:
    # The plain `daphne` command, unlike `runserver`, serves no CSS and JavaScript.
    django_application = ASGIStaticFilesHandler(django_application)

application = event_stream_application(django_application)
