"""The tutorial of django-tenants, whose tenants have users of their own with the same keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import httpx
import pytest

from ..support.documented import blocks
from ..support.patience import PATIENCE
from ..support.servers import empty_database, eventually
from .projects import Host, Listener, Visitor

pytestmark = [pytest.mark.project, pytest.mark.packages("django_tenants")]

DATABASE = """
DATABASES = {{
    "default": {{
        "ENGINE": "django_tenants.postgresql_backend",
        "NAME": {name!r},
        "USER": {user!r},
        "HOST": {host!r},
        "PORT": {port!r},
    }}
}}
"""
#: As in the settings of the tutorial; the app's lines are those with `sse_app`.
SETTINGS = """
DATABASE_ROUTERS = ("django_tenants.routers.TenantSyncRouter",)
ALLOWED_HOSTS = ["*"]
USE_TZ = False
MIDDLEWARE = ["django_tenants.middleware.TenantMainMiddleware", *MIDDLEWARE]
ROOT_URLCONF = "mysite.urls_tenants"
PUBLIC_SCHEMA_URLCONF = "mysite.urls_public"
SHARED_APPS = (
    "daphne",
    "django_tenants",
    "customers",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "sse_app",
)
TENANT_APPS = (
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.admin",
    "django.contrib.sessions",
    "django.contrib.messages",
    "tenant_only",
)
TENANT_MODEL = "customers.Client"
TENANT_DOMAIN_MODEL = "customers.Domain"
INSTALLED_APPS = list(SHARED_APPS) + [app for app in TENANT_APPS if app not in SHARED_APPS]
SSE_APP |= {
    "NAMESPACE": "mysite.tenants.namespace",
    "STREAM_CONTEXT": "mysite.tenants.of_request",
    "MAY_LISTEN": "mysite.policies.may_listen",
    "PRESENCE_GROUPS": ["room.*"],
    "REVALIDATE_INTERVAL": 0.3,
    "PRESENCE_GRACE": 0.1,
    "RETAIN": {"kept": 1},
}
"""
#: The code of the page on tenants.
TENANTS = next(block.code for block in blocks("python") if "tenant_context" in block.code)
CUSTOMERS = """
from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    name = models.CharField(max_length=100)
    created_on = models.DateField(auto_now_add=True)


class Domain(DomainMixin):
    pass
"""
NOTES = """
from django.db import models

from sse_app.changes import publish_changes


@publish_changes(groups=["notes"], fields=["text"])
class Note(models.Model):
    text = models.CharField(max_length=20)
"""
POLICIES = """
from django.dispatch import receiver

from sse_app import on, publish, snapshot
from sse_app.signals import stream_closed, stream_opened
from tenant_only.models import Note

SEEN = []


def may_listen(user, group, request):
    # The first note of each tenant names the group that its users may read.
    return group == "notes" or group in [note.text for note in Note.objects.all()]


@snapshot("state.*", seconds=60)
def notes(group):
    return [group, *Note.objects.values_list("text", flat=True)]


@snapshot("astate.*", seconds=60)
async def anotes(group):
    return [group, *[note.text async for note in Note.objects.all()]]


@on("count")
def count(message):
    message.request.counted = getattr(message.request, "counted", 0) + 1
    return [message.group, Note.objects.count()]


@receiver([stream_opened, stream_closed])
def note(sender, stream, **kwargs):
    SEEN.append([stream.close_reason or "open", *Note.objects.values_list("text", flat=True)])


@receiver(stream_opened)
async def anote(sender, stream, **kwargs):
    SEEN.append(["async", *[note.text async for note in Note.objects.all()]])
"""
URLS = """
from django.contrib import admin
from django.contrib.auth import get_user_model, login
from django.http import HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.template import RequestContext, Template
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

import mysite.policies

NAMES = '''
from datetime import timedelta
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from sse_app import *
from sse_app.access.tokens import create_token
from mysite.policies import SEEN
from tenant_only.models import Note
'''


@csrf_exempt
def enter(request):
    user, _ = get_user_model().objects.get_or_create(
        username=request.POST["name"], is_staff=True, is_superuser=True
    )
    login(request, user)
    return JsonResponse({"pk": user.pk})


@csrf_exempt
def run(request):
    names = {"request": request}
    exec(NAMES + request.POST["code"], names)
    return JsonResponse({"result": names.get("result")})


@csrf_exempt
async def arun(request):
    names = {}
    code = "".join(f"    {line}\\n" for line in request.POST["code"].splitlines())
    exec(NAMES + "async def work():\\n" + code, names)
    return JsonResponse({"result": await names["work"]()})


def page(request):
    return HttpResponse(Template(request.GET["tag"]).render(RequestContext(request)))


def csrf(request):
    return HttpResponse(get_token(request))


urlpatterns = [
    path("admin/", admin.site.urls),
    path("events/", include("sse_app.urls")),
    path("enter/", enter),
    path("run/", run),
    path("arun/", arun),
    path("tag/", page),
    path("csrf/", csrf),
]
"""
MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Note",
            [
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("text", models.CharField(max_length=20)),
            ],
        )
    ]
"""
FILES = {
    "customers/__init__.py": "",
    "customers/models.py": CUSTOMERS,
    "tenant_only/__init__.py": "",
    "tenant_only/models.py": NOTES,
    "tenant_only/migrations/__init__.py": "",
    "tenant_only/migrations/0001_initial.py": MIGRATION,
    "mysite/tenants.py": TENANTS,
    "mysite/policies.py": POLICIES,
    "mysite/urls_tenants.py": URLS,
    "mysite/urls_public.py": "from .urls_tenants import urlpatterns\n",
}
MADE = """
from customers.models import Client, Domain
for name in ("public", "red", "blue"):
    client = Client(schema_name=name, name=name)
    client.save()
    domain = f"{name}.example.com"
    Domain.objects.create(domain=domain, tenant=client, is_primary=True)
"""


class Tenant(Visitor):
    """A visitor of one tenant's site, who is its first user."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        super().__init__(host, headers={"Host": f"{name}.example.com"})
        self.events = f"{host.url}/events/"
        self.texts = (f"of-{name}",)

    def __enter__(self) -> Self:
        super().__enter__()
        self.pk = self.enter("ann")
        self.own = f"user.{self.pk}"
        self.run(f"Note.objects.all().delete(); Note.objects.create(text='{self.texts[0]}')")
        self.run("User.objects.update(is_active=True)")
        return self

    def run(self, code: str, path: str = "run") -> Any:
        answer = self.post(f"/{path}/", data={"code": code})
        assert answer.status_code == 200, answer.text[:500]
        return answer.json()["result"]

    def has_seen(self, expected: set[tuple[str, ...]]) -> bool:
        """Whether the receivers have seen exactly this."""
        return {*map(tuple, self.run("result = SEEN"))} == expected

    def stream_of(self, query: str) -> Any:
        return self.listen(f"{self.events}?{query}")

    def status(self, query: str) -> tuple[int, str]:
        """The status, and the name of the first event."""
        with self.stream_of(query) as stream:
            return stream.status, stream.next().name if stream.status == 200 else ""

    def post_as_page(self, path: str, body: Any, **headers: str) -> httpx.Response:
        token = {"X-CSRFToken": self.get("/csrf/").text, "Sec-Fetch-Site": "same-origin"}
        return self.post(f"/events/{path}/", json=body, headers={**token, **headers})

    def grant(self, group: str) -> str:
        url = self.get("/tag/", params={"tag": f'{{% load sse %}}{{% sse_url "{group}" %}}'}).text
        return url.partition("?")[2]


@pytest.fixture(scope="module")
def host(make_host: Callable[..., Host]) -> Iterator[Host]:
    with empty_database() as name:
        at = {key: os.environ[f"TEST_POSTGRES_{key.upper()}"] for key in ("user", "host", "port")}
        lines = DATABASE.format(name=name, **at) + SETTINGS
        host = make_host(lines=lines, files=FILES, migrate=True)
        host.shell(MADE)
        yield host
        host.close()


@pytest.fixture
def red(host: Host) -> Iterator[Tenant]:
    with Tenant(host, "red") as tenant:
        yield tenant


@pytest.fixture
def blue(host: Host) -> Iterator[Tenant]:
    with Tenant(host, "blue") as tenant:
        yield tenant


def first(stream: Listener) -> Any:
    event = stream.next()
    assert event.name == "sse.open", event
    return event.json()


def test_no_tenant_gets_what_another_one_publishes_to_the_same_name(
    red: Tenant, blue: Tenant
) -> None:
    assert red.pk == blue.pk
    for how, code in (
        ("run", "publish('{0}', 'told', '{1}')"),
        ("run", "publish_many([('{0}', 'told', '{1}')])"),
        ("run", "with transaction.atomic(): publish('{0}', 'told', '{1}')"),
        ("run", "publish('{0}', 'told', '{1}', durable=False)"),
        ("arun", "await apublish('{0}', 'told', '{1}')"),
        ("arun", "await apublish_many([('{0}', 'told', '{1}')])"),
    ):
        with (
            red.stream_of(f"group={red.own}") as of_red,
            blue.stream_of(f"group={blue.own}") as of_blue,
        ):
            assert first(of_red)["groups"] == first(of_blue)["groups"] == [red.own]
            red.run(code.format(red.own, "red"), how)
            blue.run(code.format(blue.own, "blue"), how)
            assert of_red.next().data == "red", code
            assert of_blue.next().data == "blue", code


def test_a_saved_row_reaches_the_pages_of_its_tenant(red: Tenant, blue: Tenant) -> None:
    with red.stream_of("group=notes&label=1") as of_red, blue.stream_of("group=notes") as of_blue:
        first(of_red), first(of_blue)
        red.run("Note.objects.create(text='new red')")
        blue.run("Note.objects.create(text='new blue')")
        assert of_red.until("note.created").json()["fields"] == {"text": "new red"}
        assert of_blue.until("note.created").json()["fields"] == {"text": "new blue"}


def test_a_policy_and_a_state_see_the_rows_of_the_tenant(red: Tenant, blue: Tenant) -> None:
    for tenant, own, other in ((red, "of-red", "of-blue"), (blue, "of-blue", "of-red")):
        assert tenant.status(f"group={own}") == (200, "sse.open")
        assert tenant.status(f"group={other}") == (403, "")
        for group in ("state.1", "astate.1"):
            with tenant.stream_of(tenant.grant(group)) as stream:
                first(stream)
                state = stream.until("sse.snapshot").json()
                assert state == {"group": group, "data": [group, own]}


def test_a_view_asks_the_policy_for_the_rows_of_the_tenant(red: Tenant, blue: Tenant) -> None:
    for tenant, own, other in ((red, "of-red", "of-blue"), (blue, "of-blue", "of-red")):
        assert tenant.post_as_page("ticket", {"groups": [own]}).status_code == 200
        assert tenant.post_as_page("ticket", {"groups": [other]}).status_code == 403


def test_the_deletion_of_a_user_ends_no_token_of_another_tenant(red: Tenant, blue: Tenant) -> None:
    make = "bob = User.objects.create(username='bob', pk=900); "
    make += "result = issue_token(bob, name='phone', lifetime=timedelta(1))"
    tokens = {tenant: {"Authorization": f"Bearer {tenant.run(make)}"} for tenant in (red, blue)}
    with (
        red.listen(f"{red.events}?group=user.900", **tokens[red]) as of_red,
        blue.listen(f"{blue.events}?group=user.900", **tokens[blue]) as of_blue,
    ):
        first(of_red), first(of_blue)
        red.run("User.objects.get(pk=900).delete()")
        assert of_red.until("sse.close").json()["reason"] == "auth"
        blue.run("publish('user.900', 'still')")
        assert of_blue.until("still").name == "still"
    for tenant, status in ((red, 403), (blue, 200)):
        with tenant.listen(f"{tenant.events}?group=user.900", **tokens[tenant]) as stream:
            assert stream.status == status
    blue.run("User.objects.get(pk=900).delete()")


def test_the_receivers_of_a_streams_signals_see_the_rows_of_the_tenant(
    red: Tenant, blue: Tenant
) -> None:
    for tenant in (red, blue):
        tenant.run("SEEN.clear()")
        with tenant.stream_of("group=notes") as stream:
            first(stream)
            tenant.run("disconnect(group='notes')")
            assert stream.until("sse.close").json()["reason"] == "auth"
        all_seen = {(kind, *tenant.texts) for kind in ("open", "async", "auth")}
        eventually(partial(tenant.has_seen, all_seen))


def test_what_one_tenant_gives_opens_nothing_at_another(red: Tenant, blue: Tenant) -> None:
    grant = red.grant("secret")
    assert red.status(grant)[0] == 200
    assert blue.status(grant) == (403, "")
    for make in (
        "result = issue_ticket(User.objects.get(), ['secret']).partition('?')[2]",
        "from django.contrib.auth.models import AnonymousUser\n"
        "result = issue_ticket(AnonymousUser(), ['secret']).partition('?')[2]",
    ):
        ticket = red.run(make)
        with blue.stream_of(ticket) as stream:
            assert stream.next().json() == {"reason": "expired"}
        assert red.status(ticket) == (200, "sse.open"), "it was not used up there"
    anonymous = red.run(
        "from django.contrib.auth.models import AnonymousUser\n"
        "from sse_app.access.grants import Grant\n"
        "result = 'grant=' + Grant.to(AnonymousUser(), ['secret']).sign()"
    )
    assert red.status(anonymous)[0] == 200
    assert blue.status(anonymous)[0] == 403
    for make in (
        "result = issue_token(User.objects.get(), name='p', lifetime=timedelta(1))",
        "result = create_token('p', listen=['*'], publish=['*'], events=['*'], "
        "lifetime=timedelta(1))[1]",
    ):
        token = {"Authorization": f"Bearer {red.run(make)}"}
        for tenant, status in ((red, 200), (blue, 403)):
            with tenant.listen(f"{tenant.events}?group={tenant.own}", **token) as stream:
                assert stream.status == status, (tenant.own, make)
        body = {"group": "notes", "event": "count"}
        assert blue.post("/events/publish/", json=body, headers=token).status_code in (401, 403)
        assert blue.post("/events/send/", json=body, headers=token).status_code in (401, 403)


def test_a_right_that_ends_at_one_tenant_ends_no_stream_of_another(
    red: Tenant, blue: Tenant
) -> None:
    for end, reason in (
        ("disconnect(user=User.objects.get())", "auth"),
        ("disconnect(group=f'user.{User.objects.get().pk}')", "auth"),
        ("User.objects.update(is_active=False)", "auth"),
        ("user = User.objects.get(); user.is_active = False; user.save()", "auth"),
        ("Session.objects.all().delete()", "auth"),
    ):
        with (
            Tenant(red.host, "red") as again,
            Tenant(blue.host, "blue") as other,
            again.stream_of(f"group={again.own}") as of_red,
            other.stream_of(f"group={other.own}") as of_blue,
        ):
            first(of_red), first(of_blue)
            again.run(end)
            assert of_red.until("sse.close").json()["reason"] == reason, end
            other.run(f"publish('{other.own}', 'still')")
            assert of_blue.until("still").name == "still", end


def test_positions_of_one_tenant_are_none_of_another(red: Tenant, blue: Tenant) -> None:
    for tenant, text in ((red, "red"), (blue, "blue")):
        tenant.run(f"publish('kept', 'was', '{text}'); Note.objects.create(text='kept')")
    position = red.run("result = cursor('kept')")
    assert position != blue.run("result = cursor('kept')")
    assert position == red.run("return await acursor('kept')", "arun")
    red.run("publish('kept', 'was', 'red again')")
    with red.stream_of(f"group=kept&last_event_id={position}") as stream:
        assert first(stream)["missed"] == 1
        assert stream.next().data == "red again"
    with blue.stream_of(f"group=kept&last_event_id={position}") as stream:
        assert first(stream)["recovered"] is False
        assert stream.next().data == "blue"


def test_members_are_those_of_the_tenant(red: Tenant, blue: Tenant) -> None:
    count = "result = [member.name for member in presence.members('room.1')]"
    acount = "return [member.name for member in await presence.amembers('room.1')]"
    with red.stream_of(red.grant("room.1")) as stream:
        first(stream)
        assert stream.until("presence.join").json()["user"] == str(red.pk)
        eventually(lambda: red.run(count) == ["ann"])
        assert red.run(acount, "arun") == ["ann"]
        assert blue.run(count) == blue.run(acount, "arun") == []


def test_a_message_is_one_of_the_tenant_also_with_the_same_key(red: Tenant, blue: Tenant) -> None:
    red.run("Note.objects.create(text='second')")
    body = {"group": red.own, "event": "count"}
    key = {"Idempotency-Key": "k-1"}
    assert red.post_as_page("send", body, **key).json() == [red.own, 2]
    again = blue.post_as_page("send", body, **key)
    assert (again.json(), "Idempotency-Replayed" in again.headers) == ([red.own, 1], False)


def test_progress_is_reported_to_the_tenant(red: Tenant, blue: Tenant) -> None:
    code = (
        "with progress('{0}', total=3) as report:\n"
        "    import time\n"
        "    for _ in range(3):\n        report.advance()\n        time.sleep(0.06)\n"
    )
    with (
        red.stream_of(f"group={red.own}") as of_red,
        blue.stream_of(f"group={blue.own}") as of_blue,
    ):
        first(of_red), first(of_blue)
        red.run(code.format(red.own))
        states = [of_red.next().json()["state"]]
        while states[-1] == "running":
            states.append(of_red.next().json()["state"])
        assert states[-1] == "done"
        blue.run(f"publish('{blue.own}', 'only')")
        assert of_blue.next().name == "only"


def test_server_side_code_subscribes_to_the_groups_of_its_tenant(red: Tenant, blue: Tenant) -> None:
    code = (
        "async with subscribe('talk') as events:\n"
        "    await apublish('talk', 'said', '{0}')\n"
        "    async for event in events:\n        return [event.group, event.data]"
    )
    assert red.run(code.format("red"), "arun") == ["_red.talk", "red"]
    assert blue.run(code.format("blue"), "arun") == ["_blue.talk", "blue"]


def test_the_name_of_another_tenants_group_is_no_name(red: Tenant, blue: Tenant) -> None:
    assert red.status(f"group=_blue.{blue.own}")[0] == 400
    refused = "result = ''\ntry:\n    {0}\nexcept ValueError as error:\n    result = str(error)"
    for call in ("publish('_blue.a', 'e')", "cursor('_blue.a')", "disconnect(group='_blue.a')"):
        assert "_blue.a" in red.run(refused.format(call))
        assert red.run(refused.format(call.replace("_blue", "_red"))) == ""
    assert "namespace" in red.run(refused.format("publish('a' * 80, 'e')"))


def test_a_command_for_one_tenant_publishes_there(red: Tenant, blue: Tenant) -> None:
    with (
        red.stream_of(f"group={red.own}") as of_red,
        blue.stream_of(f"group={blue.own}") as of_blue,
    ):
        first(of_red), first(of_blue)
        red.host.manage("tenant_command", "sse_publish", red.own, "told", "1", "--schema=red")
        assert of_red.next().name == "told"
        blue.run(f"publish('{blue.own}', 'only')")
        assert of_blue.next().name == "only"


def test_a_host_without_a_tenant_has_no_streams(host: Host, red: Tenant) -> None:
    headers = {"Host": "nobody.example.com"}
    answer = httpx.get(f"{red.events}?group=notes", headers=headers, timeout=PATIENCE)
    assert answer.status_code == 403


def test_the_pages_that_show_all_tenants_belong_to_none(host: Host, red: Tenant) -> None:
    pages = ("serverprocess/", "accesstoken/", "broadcast/", "serverprocess/feed/")
    for page in pages:
        assert red.get(f"/admin/sse_app/{page}").status_code == 404, page
    assert red.get("/events/metrics/").status_code == 403
    with Visitor(host, headers={"Host": "public.example.com"}) as public:
        public.enter("ann")
        for page in pages[:-1]:
            assert public.get(f"/admin/sse_app/{page}").status_code == 200, page
