"""What is in the wheel and the sdist, what they say of themselves, and what may be missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
from email import message_from_bytes
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sse_app
from sse_app.checks.deployment import FLOORS

from ..requirements import of_hosts, requirements
from ..support.distributions import ROOT, build

pytestmark = pytest.mark.project

METADATA = f"sse_app-{sse_app.__version__}.dist-info"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("package"), "sdist", "wheel")


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def sources() -> set[str]:
    """Each file of the app, by its path."""
    files = (path for path in (ROOT / "sse_app").rglob("*") if path.is_file())
    paths = (path.relative_to(ROOT).as_posix() for path in files)
    return {path for path in paths if not re.search(r"__pycache__|/\.", path)}


def test_the_wheel_has_each_file_of_the_app_and_nothing_else(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if not name.startswith(METADATA)}
    assert names == sources()


def test_the_wheel_has_what_setuptools_forgets_when_it_is_not_told(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    assert {
        "sse_app/py.typed",
        "sse_app/static/sse_app/LICENSE-idiomorph.txt",
        "sse_app/static/sse_app/collection.js",
        "sse_app/static/sse_app/debug.js",
        "sse_app/static/sse_app/live.js",
        "sse_app/static/sse_app/package.json",
        "sse_app/static/sse_app/reload.js",
        "sse_app/static/sse_app/sse.js",
        "sse_app/static/sse_app/sse.d.ts",
        "sse_app/templates/sse_app/admin/dashboard.html",
        "sse_app/templates/admin/sse_app/broadcast/compose.html",
        "sse_app/migrations/0001_initial.py",
        "sse_app/locale/django.pot",
        "sse_app/management/commands/sse_doctor.py",
        f"{METADATA}/licenses/LICENSE",
    } <= names


def test_the_sdist_has_what_the_wheel_is_built_from_and_neither_tests_nor_demo(
    built: Path,
) -> None:
    (found,) = built.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        members = [member.name for member in archive if member.isfile()]
    names = {name.partition("/")[2] for name in members}
    assert sources() <= names
    assert {name for name in names if not name.startswith(("sse_app/", "sse_app.egg-info/"))} == {
        "CHANGELOG.md",
        "LICENSE",
        "MANIFEST.in",
        "PKG-INFO",
        "README.md",
        "pyproject.toml",
        "setup.cfg",
    }


def test_twine_finds_nothing_wrong(built: Path) -> None:
    files = sorted(map(str, built.iterdir()))
    assert len(files) == 2
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_metadata_say_what_is_needed_and_which_extras_there_are(wheel: Path) -> None:
    metadata = message_from_bytes(ZipFile(wheel).read(f"{METADATA}/METADATA"))
    assert metadata["Version"] == sse_app.__version__
    assert metadata["License-Expression"] == "MIT"
    needed = [text for text in metadata.get_all("Requires-Dist") or [] if "extra ==" not in text]
    assert sorted(re.split(r"[<>=!]", text)[0] for text in needed) == [
        "channels",
        "daphne",
        "django",
        "twisted",
    ]
    assert sorted(metadata.get_all("Provides-Extra") or []) == sorted(
        PROJECT["optional-dependencies"]
    )


def test_the_extras_are_what_the_requirements_have_and_the_messages_name() -> None:
    code = "\n".join(file.read_text() for file in (ROOT / "sse_app").rglob("*.py"))
    named = set(re.findall(r'pip install "sse-app\[(\w+)\]"', code))
    # Without psycopg it is Django that says so.
    assert named | {"postgresql"} == set(PROJECT["optional-dependencies"])


def test_the_requirements_are_those_of_the_project() -> None:
    assert (ROOT / "requirements.txt").read_text() == requirements(), "run `make requirements`"
    hosts = ROOT / "tests" / "hosts" / "requirements.txt"
    assert hosts.read_text() == of_hosts(), "run `make requirements`"


def test_no_package_with_known_holes_is_installed_with_the_app() -> None:
    declared = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    allowed = {each.name: each.specifier for each in map(Requirement, declared)}
    for name, floors in FLOORS.items():
        for floor in map(Version, floors):
            assert floor in allowed[name]
            *series, last = floor.release
            lower = ".".join(map(str, (*series, last - 1))) if last else f"{series[0] - 1}.99"
            assert lower not in allowed[name], f"{name} {lower}"


#: What each program says without the packages, in a process that can't import them.
WITHOUT: dict[str, tuple[list[str], str, str]] = {
    "the metrics": (
        ["prometheus_client"],
        """
        from unittest.mock import patch
        from django.test import RequestFactory
        from sse_app.views import metrics
        with patch.object(metrics, "_is_permitted", return_value=True):
            print(metrics.metrics(RequestFactory().get("/")).content.decode())
        """,
        "metrics",
    ),
    "the log in Redis": (
        ["redis"],
        """
        from sse_app.eventlog import make_event_log
        make_event_log({"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": "redis://127.0.0.1"})
        """,
        "redis",
    ),
    "the channel layer on Redis": (
        ["channels_redis"],
        """
        from django.test import override_settings
        from sse_app.conf import channel_layer
        backend = "channels_redis.pubsub.RedisPubSubChannelLayer"
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": backend}}):
            channel_layer()
        """,
        "redis",
    ),
    "a client on the command line": (
        ["httpx_sse"],
        """
        from django.core.management import call_command
        call_command("sse_listen", url="nowhere")
        """,
        "listen",
    ),
    "the doctor's look at a stream": (
        ["httpx_sse"],
        """
        import asyncio
        from sse_app.operations.doctor_proxy import examine_stream
        async def look():
            print([finding async for finding in examine_stream("http://127.0.0.1:9/")])
        asyncio.run(look())
        """,
        "listen",
    ),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_what_misses_a_package_says_which_extra_has_it(what: str) -> None:
    missing, program, extra = WITHOUT[what]
    said = run_without(missing, program)
    assert f'pip install "sse-app[{extra}]"' in said
    # And not because of something else.
    assert f'pip install "sse-app[{extra}]"' not in run_without([], program)


def run_without(missing: list[str], program: str) -> str:
    """Run `program`, to which none of the packages is installed; what it says and raises."""
    import textwrap

    code = (
        "import sys, django\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"
        "django.setup()\n" + textwrap.dedent(program)
    )
    environment: dict[str, Any] = {"DJANGO_SETTINGS_MODULE": "tests.settings", "DEBUG": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_the_app_is_checked_and_migrated_without_any_optional_package() -> None:
    optional = ["channels_redis", "redis", "prometheus_client", "httpx", "httpx_sse"]
    program = """
        from django.core.management import call_command
        call_command("check")
        call_command("makemigrations", "sse_app", check=True, dry_run=True)
        import sse_app.asgi, sse_app.urls, sse_app.admin, sse_app.testing
        for name in sse_app.__all__:
            getattr(sse_app, name)
        print("all there")
    """
    assert run_without(optional, program).endswith("all there\n")
