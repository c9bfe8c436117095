"""Decorated models beside packages that save models in their own ways: one project has all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..support.servers import ROOT

PACKAGES = [
    "debug_toolbar",
    "import_export",
    "modeltranslation",
    "polymorphic",
    "rest_framework",
    "reversion",
    "silk",
    "simple_history",
    "taggit",
    "wagtail",
]

pytestmark = [pytest.mark.project, pytest.mark.packages(*PACKAGES)]

SETTINGS = """
from pathlib import Path
BASE = Path(__file__).parent
SECRET_KEY = "x"
DEBUG = True
USE_TZ = True
ALLOWED_HOSTS = ["*"]
INTERNAL_IPS = ["127.0.0.1"]
ROOT_URLCONF = "urls"

LANGUAGES = [("en", "English"), ("de", "German")]
INSTALLED_APPS = [
    "modeltranslation", "django.contrib.auth", "django.contrib.contenttypes",
    "django.contrib.sessions", "django.contrib.messages", "django.contrib.admin",
    "django.contrib.staticfiles", "channels", "sse_app", "rest_framework", "reversion",
    "polymorphic", "simple_history", "import_export", "taggit", "modelcluster", "wagtail",
    "wagtail.users", "wagtail.documents", "wagtail.images", "wagtail.search", "wagtail.admin",
    "debug_toolbar", "silk", "beside.apps.Beside",
]
MIDDLEWARE = [
    "debug_toolbar.middleware.DebugToolbarMiddleware", "silk.middleware.SilkyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {"default": {
    "ENGINE": "django.db.backends.sqlite3", "NAME": BASE / "db.sqlite3",
    "OPTIONS": {"transaction_mode": "IMMEDIATE"},
}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
WAGTAILADMIN_BASE_URL = "http://localhost"
WAGTAIL_SITE_NAME = "beside"
DEBUG_TOOLBAR_CONFIG = {"IS_RUNNING_TESTS": False, "SHOW_TOOLBAR_CALLBACK": "urls.always"}
SILKY_META = True
LOGGING = {
    "version": 1,
    "handlers": {"errors": {"class": "logging.FileHandler", "filename": BASE / "errors.log"}},
    "root": {"handlers": ["errors"], "level": "ERROR"},
}
"""
URLS = """
from debug_toolbar.toolbar import debug_toolbar_urls
from django.db import transaction
from django.http import HttpResponse
from django.urls import include, path
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import ModelViewSet
from beside.models import Recorded
from beside.serializers import RecordedSerializer


class Records(ModelViewSet):
    queryset = Recorded.objects.all()
    serializer_class = RecordedSerializer
    authentication_classes = permission_classes = []


def always(request):
    return True


def change(request):
    with transaction.atomic():
        for n in range(3):
            Recorded.objects.create(title=str(n))
    return HttpResponse("<html><body>done</body></html>")


router = SimpleRouter()
router.register("records", Records)
urlpatterns = [
    path("change/", change), path("silk/", include("silk.urls", namespace="silk")),
    *router.urls, *debug_toolbar_urls(),
]
"""
APPS = """
from django.apps import AppConfig


class Beside(AppConfig):
    name = "beside"

    def ready(self):
        from django.contrib.auth.models import Group
        from django.db.models.signals import pre_delete
        from sse_app import publish
        from sse_app.changes import publish_changes
        from wagtail.signals import page_published

        # A model that is not yours.
        publish_changes(groups="roles", fields=["name"])(Group)

        def published(sender, instance, **kwargs):
            publish(f"page.{instance.pk}", "page.published", {"title": instance.title})

        page_published.connect(published, weak=False)
"""
MODELS = """
import reversion
from django.db import models
from polymorphic.models import PolymorphicModel
from simple_history.models import HistoricalRecords
from sse_app.changes import ChangesManager, publish_changes
from taggit.managers import TaggableManager
from taggit.models import ItemBase, TagBase, TaggedItemBase
from wagtail.models import Page


@publish_changes(groups="records", serializer="beside.serializers.RecordedSerializer")
class Recorded(models.Model):
    title = models.CharField(max_length=40)
    objects = ChangesManager()


class Translated(models.Model):
    title = models.CharField(max_length=40)


@reversion.register()
@publish_changes(groups="reverted", fields=["title"], raw=True)
class Reverted(models.Model):
    title = models.CharField(max_length=40)


@publish_changes(groups="shapes", fields=["title"])
class Shape(PolymorphicModel):
    title = models.CharField(max_length=40)


class Circle(Shape):
    radius = models.FloatField(default=1)


@publish_changes(groups="historical", fields=["title"])
class Historical(models.Model):
    title = models.CharField(max_length=40)
    history = HistoricalRecords()


@publish_changes(groups="imported", fields=["title"])
class Imported(models.Model):
    title = models.CharField(max_length=40)
    objects = ChangesManager()


def tag_data(item):
    return {"tag": item.tag.name}


@publish_changes(groups="tagged.{content_object_id}", name="tag", serializer=tag_data)
class TaggedText(TaggedItemBase):
    content_object = models.ForeignKey("Text", models.CASCADE)


class Text(models.Model):
    title = models.CharField(max_length=40)
    tags = TaggableManager(through=TaggedText)


@publish_changes(groups=["pages", "page.{pk}"], fields=["title", "body"], name="page")
class Article(Page):
    body = models.TextField(default="")
"""
SERIALIZERS = """
from rest_framework import serializers
from beside.models import Recorded


class RecordedSerializer(serializers.ModelSerializer):
    class Meta:
        model = Recorded
        fields = ["id", "title"]
"""
TRANSLATION = """
from modeltranslation.translator import TranslationOptions, register
from sse_app.changes import publish_changes
from beside.models import Translated


@register(Translated)
class Options(TranslationOptions):
    fields = ["title"]


publish_changes(groups="translated", fields=["title_en", "title_de"])(Translated)
"""
SCRIPT = """
import json, os, sys, traceback
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
# The tables are made as they are now: the migrations of Wagtail take a while.
settings.MIGRATION_MODULES = dict.fromkeys(app.label for app in apps.get_app_configs())
call_command("migrate", run_syncdb=True, verbosity=0)
from django.test import Client
from sse_app.changes import publish_changes
from sse_app.testing import capture_events
from beside import models

said = {}


def case(function):
    seen = {}
    try:
        with capture_events() as events:
            seen["more"] = function()
        seen["events"] = [(e.group, e.name, e.json()) for e in events]
    except Exception:
        seen["error"] = traceback.format_exc()
    said[function.__name__] = seen


@case
def rest_framework():
    answer = Client().post("/records/", {"title": "a"})
    return answer.status_code


@case
def recorders_of_sql():
    for _ in range(2):
        assert Client().get("/change/").status_code == 200


@case
def modeltranslation():
    from django.utils.translation import override
    with override("de"):
        row = models.Translated.objects.create(title="eins", title_en="one")
        row.title = "zwei"
        row.save()


@case
def reversion():
    import reversion
    with reversion.create_revision():
        row = models.Reverted.objects.create(title="a")
    row.title = "b"
    row.save()
    from reversion.models import Version
    Version.objects.get_for_object(row).first().revision.revert()


@case
def polymorphic():
    circle = models.Circle.objects.create(title="a", radius=2)
    shape = models.Shape.objects.get()
    shape.title = "b"
    shape.save()
    models.Shape.objects.all().delete()
    return type(shape).__name__


@case
def simple_history():
    row = models.Historical.objects.create(title="a")
    row.title = "b"
    row.save()
    row.history.earliest().instance.save()
    return row.history.count()


@case
def import_export():
    from import_export.resources import modelresource_factory
    from tablib import Dataset
    plain = modelresource_factory(models.Imported)()
    data = Dataset(["", "a"], headers=["id", "title"])
    plain.import_data(data, dry_run=True, raise_errors=True)
    plain.import_data(data, raise_errors=True)
    bulk = modelresource_factory(models.Imported)
    bulk._meta.use_bulk = True
    bulk().import_data(Dataset(["", "b"], headers=["id", "title"]), raise_errors=True)
    return models.Imported.objects.count()


@case
def taggit():
    text = models.Text.objects.create(title="a")
    text.tags.add("red")
    text.tags.remove("red")
    try:
        publish_changes(groups="g", m2m=["tags"])(models.Text)
    except Exception as error:
        return str(error)


@case
def wagtail():
    from wagtail.models import Locale, Page
    Locale.objects.create(language_code="en")
    page = models.Article(title="a", body="old", slug="a")
    Page.add_root(title="Root", slug="root").add_child(instance=page)
    page.body = "new"
    revision = page.save_revision()
    before = models.Article.objects.get().body
    revision.publish()
    models.Article.objects.get().delete()
    return before


@case
def not_yours():
    from django.contrib.auth.models import Group
    group = Group.objects.create(name="a")
    group.name = "b"
    group.save()


print(json.dumps(said))
"""
EARLY = {
    "early/__init__.py": "",
    "early/migrations/__init__.py": "",
    "early/models.py": (
        "from django.db import models\n"
        "from sse_app.changes import publish_changes\n"
        '@publish_changes(groups="g")\n'
        "class Early(models.Model): pass\n"
    ),
    "early/migrations/0001_initial.py": (
        "from django.db import migrations, models\n"
        "def fill(apps, schema_editor):\n"
        "    from early.models import Early\n"
        "    Early.objects.create()\n"
        "class Migration(migrations.Migration):\n"
        "    initial = True\n"
        "    dependencies = []\n"
        "    operations = [\n"
        "        migrations.CreateModel(name='Early', fields=[('id', models.BigAutoField(\n"
        "            auto_created=True, primary_key=True, serialize=False, verbose_name='ID'))]),\n"
        "        migrations.RunPython(fill),\n"
        "    ]\n"
    ),
    "bare.py": (
        'SECRET_KEY = "x"\n'
        "INSTALLED_APPS = ['early', 'channels', 'sse_app', 'django.contrib.auth',\n"
        "    'django.contrib.contenttypes', 'django.contrib.sessions', 'django.contrib.admin']\n"
        "DATABASES = {'default': {\n"
        "    'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'bare.sqlite3'}}\n"
        "CHANNEL_LAYERS = {'default': {'BACKEND': 'channels.layers.InMemoryChannelLayer'}}\n"
    ),
}
FILES = {
    "settings.py": SETTINGS,
    "urls.py": URLS,
    "script.py": SCRIPT,
    "beside/__init__.py": "",
    "beside/apps.py": APPS,
    "beside/models.py": MODELS,
    "beside/serializers.py": SERIALIZERS,
    "beside/translation.py": TRANSLATION,
    **EARLY,
}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the folder of the project."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beside")
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Any]:
    """What each case of the script says: the events, and more."""
    done = run(folder, "script.py")
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def case(said: dict[str, Any], name: str) -> tuple[list[tuple[str, Any]], Any]:
    """Return the name and data of the events of a case, and what it returned."""
    found = said[name]
    assert "error" not in found, found["error"]
    return [(event, data) for _, event, data in found["events"]], found["more"]


def test_rest_framework(said: dict[str, Any]) -> None:
    """A serializer by its path, and a row that is saved by a view."""
    assert case(said, "rest_framework") == (
        [("recorded.created", {"id": 1, "title": "a"})],
        201,
    )


def test_debug_toolbar_and_silk(said: dict[str, Any], folder: Path) -> None:
    """They record the SQL of each request, and of the log too."""
    events, _ = case(said, "recorders_of_sql")
    assert [data["title"] for _, data in events] == ["0", "1", "2"] * 2
    assert (folder / "errors.log").read_text() == ""


def test_modeltranslation(said: dict[str, Any]) -> None:
    """Each language is a field, once `register()` has made it."""
    events, _ = case(said, "modeltranslation")
    assert [name for name, _ in events] == ["translated.created", "translated.updated"]
    assert events[0][1]["fields"] == {"title_en": "one", "title_de": "eins"}
    assert events[1][1]["changed"] == {"title_de": ["eins", "zwei"]}


def test_reversion(said: dict[str, Any]) -> None:
    """A row is reverted as a fixture is loaded: `raw=True`."""
    events, _ = case(said, "reversion")
    assert [data.get("changed") for _, data in events] == [
        None,
        {"title": ["a", "b"]},
        {"title": ["b", "a"]},
    ]


def test_polymorphic(said: dict[str, Any]) -> None:
    """The decorator of the base publishes the rows of all kinds, each once."""
    events, kind = case(said, "polymorphic")
    assert kind == "Circle"
    assert [name for name, _ in events] == ["shape.created", "shape.updated", "shape.deleted"]


def test_simple_history(said: dict[str, Any]) -> None:
    """A record is a row of another model; an old one that is saved is an update."""
    events, count = case(said, "simple_history")
    assert [data.get("changed") for _, data in events] == [
        None,
        {"title": ["a", "b"]},
        {"title": ["b", "a"]},
    ]
    assert count == 3


def test_import_export(said: dict[str, Any]) -> None:
    """A trial publishes nothing, and `use_bulk` needs the manager."""
    events, count = case(said, "import_export")
    assert [data["fields"]["title"] for _, data in events] == ["a", "b"]
    assert count == 2


def test_taggit(said: dict[str, Any]) -> None:
    """`m2m=` says what to do: the rows between are decorated."""
    events, refused = case(said, "taggit")
    assert events == [("tag.created", {"tag": "red"}), ("tag.deleted", {"tag": "red"})]
    assert "names 'tags', which is not a ManyToManyField of Text. It has: none." in refused
    assert "(Model.field.through)" in refused


def test_wagtail(said: dict[str, Any]) -> None:
    """A draft is no change of the page; its publication is."""
    events, before = case(said, "wagtail")
    assert before == "old"
    names = [name for name, data in events]
    assert names == [
        *["page.created"] * 2,
        *["page.updated"] * 2,
        "page.published",
        *["page.deleted"] * 2,
    ]
    assert events[2][1]["changed"] == {"body": ["old", "new"]}


def test_a_model_that_is_not_yours(said: dict[str, Any]) -> None:
    """It is decorated when the app is ready."""
    events, _ = case(said, "not_yours")
    assert [name for name, _ in events] == ["group.created", "group.updated"]


def test_a_migration_that_saves_a_decorated_model_needs_a_dependency(folder: Path) -> None:
    migrate = ["-m", "django", "migrate", "early", "--settings=bare", "--skip-checks"]
    done = run(folder, *migrate)
    assert done.returncode != 0
    line = done.stderr.partition("dependencies = [..., ")[2].partition("]")[0]
    assert line.startswith("('sse_app', '0"), done.stderr[-2000:]
    file = folder / "early/migrations/0001_initial.py"
    file.write_text(file.read_text().replace("dependencies = []", f"dependencies = [{line}]"))
    done = run(folder, *migrate)
    assert done.returncode == 0, done.stderr[-2000:]
