"""Settings of Django's that templates of projects turn on, each with all that the app answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from .projects import Host, Page, Visitor

pytestmark = pytest.mark.project

AUTH = "django.contrib.auth.middleware"
FIRST = "MIDDLEWARE.insert(0, {!r})\n".format
LAST = "MIDDLEWARE.append({!r})\n".format
GZIP = "django.middleware.gzip.GZipMiddleware"
#: Each middleware of Django's own that works with the settings of `startproject`.
EVERY = "".join(
    [
        FIRST("django.middleware.cache.UpdateCacheMiddleware"),
        FIRST(GZIP),
        FIRST("django.middleware.http.ConditionalGetMiddleware"),
        LAST("django.middleware.locale.LocaleMiddleware"),
        LAST("django.middleware.common.BrokenLinkEmailsMiddleware"),
        LAST(f"{AUTH}.LoginRequiredMiddleware"),
        LAST("django.contrib.admindocs.middleware.XViewMiddleware"),
        LAST("django.middleware.cache.FetchFromCacheMiddleware"),
    ]
)
#: A middleware that chooses the URLconf by the host, as django-hosts and django-tenants do.
BY_HOST = """
def by_host(get_response):
    def choose(request):
        request.urlconf = "mysite.sites"
        return get_response(request)

    return choose
"""
INHERITED = """
from django.contrib.auth.models import AbstractUser
from django.db import models


class Person(AbstractUser):
    pass


class Account(Person):
    nickname = models.CharField(max_length=20)
"""
BY_EMAIL = """
from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class Account(AbstractBaseUser):
    email = models.EmailField(primary_key=True)
    is_staff = is_active = is_superuser = True
    USERNAME_FIELD = "email"
    objects = BaseUserManager()

    def has_perm(self, permission, obj=None):
        return True

    def has_module_perms(self, label):
        return True
"""


class Kind(NamedTuple):
    """The settings of a project, and what its visitors send."""

    settings: dict[str, Any]
    #: Before each path.
    prefix: str = ""
    #: Of each request of a visitor, as a proxy sets them.
    headers: dict[str, str] = {}
    #: The hosts that a load balancer may name.
    hosts: tuple[str, ...] = ("127.0.0.1", "10.0.0.7:8000")


def of(
    prefix: str = "",
    headers: dict[str, str] | None = None,
    hosts: tuple[str, ...] = Kind._field_defaults["hosts"],
    **settings: Any,
) -> Kind:
    return Kind(settings, prefix, headers or {}, hosts)


def accounts(models: str) -> Kind:
    app = {"accounts/__init__.py": "", "accounts/models.py": models}
    lines = 'INSTALLED_APPS.append("accounts")\nAUTH_USER_MODEL = "accounts.Account"\n'
    return of(migrate=True, files=app, lines=lines)


SESSIONS = "django.contrib.sessions.backends"
SETTINGS: dict[str, Kind] = {
    "startproject": of(),
    "ATOMIC_REQUESTS": of(lines='DATABASES["default"]["ATOMIC_REQUESTS"] = True\n'),
    "ATOMIC_REQUESTS on another database": of(
        lines='DATABASES["other"] = {**DATABASES["default"], "NAME": BASE_DIR / "other.sqlite3", '
        '"ATOMIC_REQUESTS": True}\n'
    ),
    "LoginRequiredMiddleware": of(lines=LAST(f"{AUTH}.LoginRequiredMiddleware")),
    "SECURE_SSL_REDIRECT": of(
        headers={"X-Forwarded-Proto": "https", "Host": "www.example.com"},
        SECURE_SSL_REDIRECT=True,
        SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
        ALLOWED_HOSTS=["www.example.com"],
    ),
    "every middleware of Django": of(lines=EVERY),
    "FORCE_SCRIPT_NAME": of(prefix="/below", FORCE_SCRIPT_NAME="/below"),
    "i18n_patterns": of(
        prefix="/de",
        lines=LAST("django.middleware.locale.LocaleMiddleware"),
        files={
            "mysite/urls.py": "from django.conf.urls.i18n import i18n_patterns\n"
            "from tests.hosts.shop.urls import urlpatterns as plain\n"
            "urlpatterns = i18n_patterns(*plain)\n"
        },
    ),
    "a URLconf chosen by a middleware": of(
        # The middleware runs for hosts of the project only.
        hosts=("127.0.0.1",),
        lines=FIRST("mysite.by_host.by_host"),
        files={
            "mysite/by_host.py": BY_HOST,
            "mysite/sites.py": "from tests.hosts.shop.urls import urlpatterns\n",
            "mysite/urls.py": "urlpatterns = []\n",
        },
    ),
    "USE_TZ": of(USE_TZ=False, TIME_ZONE="Asia/Kathmandu"),
    "USE_THOUSAND_SEPARATOR": of(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE="de"),
    "CSRF_COOKIE_NAME": of(CSRF_COOKIE_NAME="XSRF-TOKEN", CSRF_HEADER_NAME="HTTP_X_XSRF_TOKEN"),
    "CSRF_USE_SESSIONS": of(CSRF_USE_SESSIONS=True),
    "CONN_MAX_AGE": of(lines='DATABASES["default"]["CONN_MAX_AGE"] = None\n'),
    **{
        f"sessions: {name}": of(SESSION_ENGINE=f"{SESSIONS}.{name}")
        for name in ("cached_db", "signed_cookies")
    },
    "a user that inherits a table": accounts(INHERITED),
    "a user by e-mail without groups": accounts(BY_EMAIL),
}


@pytest.fixture(scope="module", params=SETTINGS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return SETTINGS[request.param]


@pytest.fixture(scope="module")
def host(kind: Kind, make_host: Callable[..., Host]) -> Host:
    return make_host(**kind.settings)


@pytest.fixture
def visitor(host: Host, kind: Kind) -> Iterator[Visitor]:
    with Visitor(host, prefix=kind.prefix, headers=kind.headers) as visitor:
        visitor.enter()
        yield visitor


@pytest.fixture
def page(visitor: Visitor) -> Page:
    return visitor.page()


def save(visitor: Visitor) -> None:
    assert visitor.post("/save/", data={"status": "paid"}).status_code == 200


def test_a_saved_row_reaches_the_stream_of_a_signed_page(visitor: Visitor, page: Page) -> None:
    with visitor.listen(page.url) as stream:
        assert stream.status == 200
        assert stream.next().json()["groups"] == ["orders"]
        save(visitor)
        assert stream.until("order.created").json()["fields"] == {"status": "paid"}


def test_a_user_has_a_group(visitor: Visitor, page: Page) -> None:
    own = visitor.get("/own/").json()
    with visitor.listen(f"{page.mount}?group={own['group']}") as stream:
        assert stream.next().name == "sse.open"
        visitor.post("/own/")
        assert stream.until("greeting").data == "hello"
    with visitor.listen(f"{page.mount}?group=others") as stream:
        assert stream.status == 403


def test_a_page_without_a_form_sends_a_message(visitor: Visitor, page: Page) -> None:
    group = visitor.get("/own/").json()["group"]
    body = {"group": group, "event": "echo", "data": 5}
    answer = page.post("send", body)
    assert (answer.status_code, answer.json().get("data")) == (200, 5), answer.text


def test_a_page_gets_a_ticket_and_a_fresh_grant(visitor: Visitor, page: Page) -> None:
    given = page.post("ticket", {"grant": page.grant})
    assert given.status_code == 200, given.text
    with visitor.listen(visitor.origin + given.json()["url"]) as stream:
        assert stream.next().json()["groups"] == ["orders"]
    renewed = page.post("renew", {"grant": page.grant})
    assert renewed.status_code == 200, renewed.text


def test_a_program_publishes_and_reads_the_metrics(visitor: Visitor, page: Page) -> None:
    bearer = {"Authorization": f"Bearer {visitor.get('/token/').text}"}
    visitor.cookies.clear()
    with visitor.listen(page.url.partition("grant=")[0] + f"grant={page.grant}") as stream:
        assert stream.status == 403, "a grant is for its user"
    body = {"group": "orders", "event": "imported", "data": 1}
    answer = visitor.post(f"{page.mount}publish/", json=body, headers=bearer)
    assert answer.status_code == 202, answer.text
    assert answer.json()["offset"] >= 1
    metrics = visitor.get(f"{page.mount}metrics/", headers=bearer)
    assert (metrics.status_code, "sse_app_" in metrics.text) == (200, True)
    assert visitor.get(f"{page.mount}metrics/").status_code == 403


def test_the_health_is_told_to_a_load_balancer_without_host_and_scheme(
    kind: Kind, page: Page
) -> None:
    for name in kind.hosts:
        answer = httpx.get(f"{page.mount}health/", headers={"Host": name})
        assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_a_stream_of_a_view_sends_each_event(visitor: Visitor) -> None:
    with visitor.listen("/clock/") as stream:
        assert stream.status == 200
        assert [stream.until("tick").json()["number"] for _ in range(3)] == [0, 1, 2]


def test_the_pages_of_the_admin_are_shown_and_the_dashboard_is_fed(visitor: Visitor) -> None:
    pages = "/admin/sse_app/serverprocess/"
    shown = visitor.get(pages)
    assert shown.status_code == 200, shown.text[:300]
    for path in ("group/orders/", "explain/"):
        assert visitor.get(f"{pages}{path}").status_code == 200
    with visitor.listen(f"{pages}feed/") as stream:
        assert stream.status == 200
        assert stream.until("totals").json()["open"] is not None
        assert stream.until("totals").json()["open"] is not None
