"""Projects as public templates make them, and how many lines it takes to have a list that is live.

The lines are counted: `USERS` has each line that somebody adds, by its file.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import httpx
import pytest

from . import cookiecutter
from .projects import Host, Visitor

pytestmark = pytest.mark.project

SET_UP = """
INSTALLED_APPS = ["daphne", *INSTALLED_APPS, "channels", "sse_app"]
ASGI_APPLICATION = "{package}.asgi.application"
CHANNEL_LAYERS = {{"default": {{"BACKEND": "channels.layers.InMemoryChannelLayer"}}}}
"""
WRAP = """
from sse_app.asgi import event_stream_application
application = event_stream_application(application)
"""


class Project(Host):
    """A project of a template, to which the lines of `users` are added."""

    first: ClassVar[str] = "/"
    #: Each file, the text after which the lines are added ("": at its end), and the lines.
    users: ClassVar[list[tuple[str, str, str]]]

    def take(self) -> None:
        """Add the user's lines."""
        for path, after, lines in self.users:
            text = (self.root / path).read_text()
            if after:
                assert text.count(after) == 1, (path, text)
                text = text.replace(after, after + lines)
            else:
                text += lines
            (self.root / path).write_text(text)

    @classmethod
    def counted(cls) -> int:
        """Return how many lines the user adds."""
        return sum(len(lines.strip().splitlines()) for _, _, lines in cls.users)


class WagtailSite(Project):
    """What `wagtail start` makes."""

    settings_module: ClassVar[str] = "mysite.settings.dev"
    users: ClassVar = [
        ("mysite/settings/base.py", "", SET_UP.format(package="mysite")),
        ("mysite/asgi.py", "", WRAP),
        (
            "mysite/urls.py",
            'name="search"),\n',
            '    path("events/", include("sse_app.urls")),\n',
        ),
        # The list.
        ("home/models.py", "import Page\n", "from sse_app.changes import publish_changes\n"),
        (
            "home/models.py",
            "publish_changes\n",
            '\n\n@publish_changes(groups=["pages"], fields=["title"])',
        ),
        ("mysite/templates/base.html", "{% load static ", "sse "),
        (
            "mysite/templates/base.html",
            "{% wagtailuserbar %}\n",
            '        {% sse_script %}{% sse_stream "pages" %}\n',
        ),
    ]

    def make(self) -> None:
        code = "import sys; sys.argv[0] = 'wagtail'\nfrom wagtail.bin.wagtail import main; main()"
        start = [sys.executable, "-c", code, "start", "mysite", "."]
        subprocess.run(start, cwd=self.root, check=True, capture_output=True)
        # The template has none; this is Django's own.
        self.write("mysite/asgi.py", DJANGOS_ASGI.format(settings=self.settings_module))
        self.take()


DJANGOS_ASGI = """import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{settings}")

application = get_asgi_application()
"""


class CookiecutterSite(Project):
    """A project in the layout of cookiecutter-django."""

    application: ClassVar[str] = "config.asgi:application"
    settings_module: ClassVar[str] = "config.settings.production"
    users: ClassVar = [
        ("config/settings/base.py", "", SET_UP.format(package="config")),
        ("config/asgi.py", "", WRAP),
        ("config/urls.py", "urlpatterns = [\n", '    path("events/", include("sse_app.urls")),\n'),
        # The list.
        (
            "my_site/users/models.py",
            "import models\n",
            "from sse_app.changes import publish_changes\n",
        ),
        (
            "my_site/users/models.py",
            "objects = UserManager()\n",
            '\n\n@publish_changes(groups=lambda task: [f"user.{task.owner_id}"], fields=["title"])',
        ),
        ("my_site/templates/tasks.html", "<!doctype html>", "{% load sse %}"),
        (
            "my_site/templates/tasks.html",
            "<title>Tasks</title>",
            "{% sse_script %}{% sse_stream group %}",
        ),
        (
            "my_site/users/views.py",
            '{"tasks": Task.objects.filter(owner=request.user)',
            ', "group": f"user.{request.user.pk}"',
        ),
    ]

    def make(self) -> None:
        for path, text in cookiecutter.FILES.items():
            self.write(path, text)
        self.write("config/asgi.py", DJANGOS_ASGI.format(settings=self.settings_module))
        self.take()

    def migrate(self) -> None:
        super().migrate()
        self.manage("collectstatic", "--no-input", "--verbosity", "0")


PUBLISH = """
from home.models import HomePage
page = HomePage.objects.get()
page.title = "News"
page.save_revision().publish()
"""


@pytest.mark.packages("wagtail")
def test_a_page_that_wagtail_publishes_is_an_event_on_its_site(
    make_host: Callable[..., Host],
) -> None:
    assert WagtailSite.counted() <= 10
    host = make_host(kind=WagtailSite)
    with Visitor(host) as visitor, visitor.listen(visitor.page("/").url) as stream:
        assert stream.next().json()["groups"] == ["pages"]
        host.shell(PUBLISH)
        assert stream.until("homepage.updated").json()["fields"] == {"title": "News"}
        assert visitor.get("/events/health/").json()["ready"]
    with Visitor(host) as visitor:
        assert visitor.get("/django-admin/login/").status_code == 200
        assert visitor.get("/admin/login/").status_code == 200


class Browser(Visitor):
    """Behind a proxy with TLS: cookies for a secure connection are sent, too."""

    def act(self, path: str, **fields: str) -> httpx.Response:
        """Post a form with the token of the cookie."""
        form = {**fields, "csrfmiddlewaretoken": self.cookies["__Secure-csrftoken"]}
        return self.post(path, data=form, headers={"Referer": "https://example.com/"})

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        pairs = (f"{cookie.name}={cookie.value}" for cookie in self.cookies.jar)
        request.headers["Cookie"] = "; ".join(pairs)
        return super().send(request, **options)


@pytest.mark.packages("allauth", "rest_framework", "whitenoise")
def test_a_row_of_an_api_is_an_event_on_a_page_of_a_user_who_signed_up(
    make_host: Callable[..., Host],
) -> None:
    assert CookiecutterSite.counted() <= 11
    host = make_host(kind=CookiecutterSite)
    sent = {"Host": "example.com", "X-Forwarded-Proto": "https"}
    with Browser(host, headers=sent) as visitor:
        assert visitor.get("/accounts/signup/").status_code == 200
        account = {"email": "ann@example.com", "password1": "of a test", "password2": "of a test"}
        assert visitor.act("/accounts/signup/", **account).headers["Location"] == "/page/"
        page = visitor.page()
        with visitor.listen(page.url) as stream:
            assert stream.next().json()["groups"] == ["user.1"]
            assert visitor.act("/api/tasks/", title="Call").status_code == 201
            assert stream.until("task.created").json()["fields"] == {"title": "Call"}
        given = page.post("ticket", {"grant": page.grant})
        assert given.status_code == 200, given.text
        assert visitor.get("/admin/login/").status_code == 200
    assert httpx.get(f"{host.url}/events/health/").json()["ready"]
