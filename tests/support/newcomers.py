"""Small projects, made as the documentation says, and served by Daphne."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import sse_app

from .patience import PATIENCE

ROOT = Path(sse_app.__file__).parent.parent


def run(folder: Path, *arguments: str) -> str:
    """Run Python in the project's folder; what it printed. Fails if that fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=_environment(),
        check=False,
        timeout=PATIENCE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def make(folder: Path, app: str) -> None:
    """An empty project, `mysite`, with an empty app."""
    run(folder, "-m", "django", "startproject", "mysite", ".")
    run(folder, "manage.py", "startapp", app)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Check and migrate the project and serve it: yields its address."""
    run(folder, "manage.py", "check")
    run(folder, "manage.py", "migrate", "--verbosity", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with (folder / "log").open("w") as log:
        daphne = subprocess.Popen(
            [sys.executable, "-m", "daphne", "-p", port, "mysite.asgi:application"],
            cwd=folder,
            env=_environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/events/health/", daphne)
        yield f"http://127.0.0.1:{port}"
    finally:
        daphne.send_signal(signal.SIGTERM)
        daphne.wait(timeout=PATIENCE)


def read(url: str, until: str, **headers: str) -> str:
    """What a stream says, up to and with `until`."""
    text = ""
    with httpx.stream("GET", url, headers=headers, timeout=PATIENCE) as answer:
        for part in answer.iter_text():
            text += part
            if until in text:
                return text
    pytest.fail(f"the stream ended without {until!r}: {text}")


def _environment() -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    return {**own, "PYTHONPATH": str(ROOT)}


def _wait_for(url: str, daphne: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and daphne.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail(f"{url} does not answer")
