"""A project of its own: users and roles with UUIDs for keys, a user model that inherits."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..selection import first_then_slow
from ..support.newcomers import make, run, served
from ..support.patience import PATIENCE

MODELS = """
import uuid

from django.contrib.auth.models import AbstractUser, Permission
from django.db import models


class Role(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=40)
    permissions = models.ManyToManyField(Permission, blank=True)


class Person(AbstractUser):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    groups = models.ManyToManyField(Role, blank=True)


class Member(Person):
    since = models.IntegerField(default=0)
"""
VIEWS = """
from django.contrib.auth import login
from django.http import HttpResponse

from .models import Member, Role


def may_listen(user, group, request):
    if group == "perm":
        rights = Role.objects.filter(person__pk=user.pk, permissions__codename="add_role")
        return rights.exists()
    return bool(user.is_authenticated and user.groups.filter(name=group).exists())


def log_in(request):
    member, made = Member.objects.get_or_create(username="ann")
    if made:
        member.groups.add(Role.objects.create(name="red"))
    login(request, member, "django.contrib.auth.backends.ModelBackend")
    return HttpResponse(str(member.pk))
"""
SETTINGS = """
INSTALLED_APPS += ["channels", "sse_app", "people"]
ASGI_APPLICATION = "mysite.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
AUTH_USER_MODEL = "people.Member"
SSE_APP = {"MAY_LISTEN": "people.views.may_listen", "REVALIDATE_INTERVAL": 0.3}
"""
URLS = """
from django.urls import include, path

from people.views import log_in

urlpatterns = [path("events/", include("sse_app.urls")), path("login/", log_in)]
"""
ASGI = """
from sse_app.asgi import event_stream_application

application = event_stream_application(application)
"""
SILENT = {
    "no role": "Member.groups.through.objects.all().delete()",
    "another role": (
        "blue = Role.objects.create(name='blue')\n"
        "Member.groups.through.objects.update(role_id=blue.pk)"
    ),
    "inactive": "Member.objects.update(is_active=False)",
}
RIGHT = (
    "from django.contrib.auth.models import Permission\n"
    "red = Role.objects.get(name='red')\nright = Permission.objects.get(codename='add_role')\n"
)


def add(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@pytest.fixture(params=first_then_slow(["sqlite", "postgresql"]))
def project(request: Any, tmp_path: Path) -> Any:
    """The project, served, and what runs code in another process of it."""
    make(tmp_path, "people")
    settings = SETTINGS
    if request.param == "postgresql":
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": request.getfixturevalue("database"),
            "HOST": os.environ["TEST_POSTGRES_HOST"],
            "PORT": os.environ["TEST_POSTGRES_PORT"],
            "USER": os.environ["TEST_POSTGRES_USER"],
        }
        settings += f"DATABASES = {{'default': {database!r}}}\n"
    add(tmp_path / "mysite/settings.py", settings)
    add(tmp_path / "mysite/asgi.py", ASGI)
    (tmp_path / "mysite/urls.py").write_text(URLS)
    (tmp_path / "people/models.py").write_text(MODELS)
    (tmp_path / "people/views.py").write_text(VIEWS)
    run(tmp_path, "manage.py", "makemigrations", "people")

    def change(code: str) -> None:
        run(tmp_path, "manage.py", "shell", "-c", f"from people.models import *\n{code}")

    with served(tmp_path) as address:
        yield address, change


@pytest.mark.slow
def test_rights_of_roles_with_uuids_are_seen_and_their_end_too(
    project: tuple[str, Callable[[str], None]],
) -> None:
    address, change = project
    with httpx.Client(base_url=address, timeout=PATIENCE) as ann, ExitStack() as stack:
        ann.get("/login/")

        def listen(group: str) -> Any:
            answer = stack.enter_context(ann.stream("GET", "/events/", params={"group": group}))
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith("event:")) == "event: sse.open"
            return lines

        for how in ("no role", "another role"):
            stream = listen("red")
            change(SILENT[how])
            assert '"reason":"auth"' in "".join(stream), how
            assert ann.get("/events/", params={"group": "red"}).status_code == 403
            change("Member.groups.through.objects.all().delete()")
            change("Member.objects.get().groups.add(Role.objects.get(name='red'))")

        assert ann.get("/events/", params={"group": "perm"}).status_code == 403
        change(f"{RIGHT}red.permissions.add(right)")
        stream = listen("perm")
        change(f"{RIGHT}red.permissions.remove(right)")
        assert '"reason":"auth"' in "".join(stream)

        stream = listen("red")
        change(SILENT["inactive"])
        assert '"reason":"auth"' in "".join(stream)
