"""The package as it is given away: built from a copy that is thrown away."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

#: What a clone has not: what was built or installed, or belongs to one machine.
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "node_modules", "build", "dist", "*.egg-info", "*.sqlite3*"
)


def build(folder: Path, *kinds: str) -> Path:
    """Build the `kinds`, "sdist" and "wheel", with what is installed; the folder they are in."""
    source, built = folder / "source", folder / "dist"
    shutil.copytree(ROOT, source, ignore=LEFT_OUT)
    options = [f"--{kind}" for kind in kinds]
    # Without isolation: pip would fetch the build system from the network each time.
    command = ["-m", "build", "--no-isolation", *options, "--outdir", str(built), str(source)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return built
