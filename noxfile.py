"""The quick tests on each Python and Django that the app is for: `nox`, or `nox -s "tests(…)"`.

A Python that is not installed is skipped. Django 6 needs Python 3.12.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False


@nox.session
@nox.parametrize(
    ("python", "django"),
    [
        ("3.11", "5.2"),
        ("3.12", "5.2"),
        ("3.12", "6.0"),
        ("3.12", "6.1"),
        ("3.13", "6.0"),
        ("3.13", "6.1"),
    ],
)
def tests(session: nox.Session, django: str) -> None:
    session.install("--requirement", "requirements.txt", f"django=={django}.*")
    session.run("python", "-m", "django", "--version")
    session.run("python", "-m", "pytest", *(session.posargs or ["-m", "quick"]))


@nox.session
def without_time_zones(session: nox.Session) -> None:
    """The quick tests in a project with `USE_TZ = False`."""
    session.install("--requirement", "requirements.txt")
    own = {"TEST_DJANGO": '{"USE_TZ": false}'}
    session.run("python", "-m", "pytest", *(session.posargs or ["-m", "quick"]), env=own)
