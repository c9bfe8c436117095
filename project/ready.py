"""For `make demo`, before anything is installed: one line for what would fail later.

Runs in any Python 3.6 or later, without packages.
"""

import os
import socket
import sys


def missing(host: str, port: str) -> str:
    """Return what is missing and its cure, "" if the demo can start."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is the question
        found = ".".join(map(str, sys.version_info[:3]))
        return (
            f"The demo needs Python 3.11 or later, and {sys.executable} is {found}. "
            "Name another one: make demo PYTHON=python3.12"
        )
    try:
        import ensurepip  # noqa: F401 - Debian has it in a package of its own
    except ImportError:
        return f"{sys.executable} can't make virtual environments: apt install python3-venv"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, int(port)), family=family).close()
    except (OSError, OverflowError, ValueError) as error:
        return (
            f"The demo can't listen on {host}, port {port} ({error}). "
            "Name another port: make demo PORT=9000"
        )
    return ""


if __name__ == "__main__":
    sys.exit(missing(os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")) or 0)
