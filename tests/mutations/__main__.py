"""`make mutations`: which of the answers are guarded by no test. Takes half an hour or so."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ..mutations import ROOT, Mutation, mutations

#: Longer than a test waits for what does not come, and than all those of one mutation do.
TEST_SECONDS: Final = 90
SECONDS: Final = 300
#: For all tests once.
ALL_SECONDS: Final = 3600
#: How pytest ends when tests ran and failed.
FAILED: Final = 1
#: What a test needs of the tree and no mutation changes, so it is not copied.
LINKED: Final = (".venv", "tests/clients/node_modules")
LEFT: Final = (".git", ".hypothesis", "build", "dist", "htmlcov", "__pycache__", ".*_cache")


def copy_to(folder: Path) -> Path:
    """Copy the tree as it is in the working directory; return where it is."""
    tree = folder / "tree"
    names = [Path(path).name for path in LINKED]
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT, *names))
    for path in LINKED:
        if (ROOT / path).exists():
            (tree / path).symlink_to((ROOT / path).resolve())
    return tree


def run(tree: Path, tests: Iterable[str], seconds: float = SECONDS) -> tuple[int, str]:
    """Run tests until one fails; return how pytest ended, and what it said.

    Tests that hang have failed.
    """
    ids = [f"tests/{test}" for test in tests]
    options = ["--exitfirst", f"--timeout={TEST_SECONDS}", "-p", "no:cacheprovider"]
    # A file of byte code is taken for as old as its source by the second.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *ids],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as pytest:
        try:
            said, _ = pytest.communicate(timeout=seconds)
            return pytest.returncode, said
        except subprocess.TimeoutExpired:
            return FAILED, f"FAILED: nothing came of it within {seconds} s"
        finally:
            # With the servers of a test that was cut off.
            with suppress(ProcessLookupError):
                os.killpg(pytest.pid, signal.SIGKILL)


def verdict(tree: Path, mutation: Mutation) -> str:
    """Return "killed", "SURVIVED", or "BROKEN" where it is not a test that failed."""
    file = tree / mutation.file
    text = file.read_text()
    file.write_text(mutation.mutate(text))
    try:
        status, said = run(tree, mutation.tests)
    finally:
        file.write_text(text)
    if status == 0:
        return "SURVIVED"
    failed = any(line.startswith("FAILED") for line in said.splitlines())
    return "killed" if status == FAILED and failed else f"BROKEN\n{said}"


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("only", nargs="*", help="words that the file or the trap has")
    parser.add_argument("--list", action="store_true", help="show them and run nothing")
    arguments = parser.parse_args()
    words = [word.lower() for word in arguments.only]
    chosen = [
        mutation
        for mutation in mutations()
        if all(word in f"{mutation.file} {mutation.trap}".lower() for word in words)
    ]
    if not chosen:
        parser.error(f"no mutation has all of these words: {' '.join(words)}")
    if arguments.list:
        for mutation in chosen:
            print(f"{mutation.where}: {mutation.trap}")
        return 0
    with TemporaryDirectory() as folder:
        tree = copy_to(Path(folder))
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        print(f"{len(chosen)} mutations, {len(tests)} tests", flush=True)
        status, said = run(tree, tests, ALL_SECONDS)
        if status:
            print(f"Without any mutation:\n{said}")
            return 1
        survived = 0
        for mutation in chosen:
            began = time.monotonic()
            found = verdict(tree, mutation)
            survived += found != "killed"
            took = time.monotonic() - began
            print(f"{found:8} {took:5.1f} s  {mutation.where}: {mutation.trap}", flush=True)
    print(f"{survived} of {len(chosen)} survived." if survived else "All were killed.")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())
