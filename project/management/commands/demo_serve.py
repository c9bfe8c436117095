"""Run Daphne for `make demo`, and restart it after SIGHUP, by `kill -HUP` or a button."""

import os
import signal
import socket
import subprocess
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import close_old_connections, connections

from project.showcase import GROUP, RESTART_EVENTS, RUNNER, publish_numbers

BACKLOG = 4096


class Command(BaseCommand):
    """Holds the listening socket, so clients wait during a restart and are not refused."""

    help = "Serve the demo with Daphne on HOST and PORT; restart it on SIGHUP."

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until SIGTERM or Ctrl-C. If Daphne ends by itself, end with its exit status."""
        self._child: subprocess.Popen[bytes] | None = None
        self._restarts = self._stops = False
        family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET
        address = (settings.HOST, int(settings.PORT))
        with socket.create_server(address, family=family, backlog=BACKLOG) as listening:
            signal.signal(signal.SIGHUP, self._restart)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            status = self._serve(listening)
        sys.exit(status)

    def _serve(self, listening: socket.socket) -> int:
        while True:
            self._restarts = False
            self._child = self._start(listening)
            if self._stops:
                self._child.terminate()  # The signal came before there was anybody to tell.
            status = self._child.wait()
            if self._stops or not self._restarts:
                return 0 if self._stops else status
            self._publish_meanwhile()

    def _start(self, listening: socket.socket) -> subprocess.Popen[bytes]:
        descriptor = str(listening.fileno())
        options = ["--verbosity", "1", "--access-log", os.devnull, "--fd", descriptor]
        return subprocess.Popen(
            [sys.executable, "-m", "daphne", *options, "project.asgi:application"],
            env=os.environ | {RUNNER: str(os.getpid())},
            pass_fds=[listening.fileno()],
        )

    def _publish_meanwhile(self) -> None:
        """Publish while no server runs: the panes have to get these events when they reconnect."""
        close_old_connections()
        publish_numbers(GROUP, RESTART_EVENTS, "restart")
        connections.close_all()

    def _restart(self, *_: object) -> None:
        self._restarts = True
        self._end()

    def _stop(self, *_: object) -> None:
        self._stops = True
        self._end()

    def _end(self) -> None:
        if self._child is not None:
            self._child.terminate()
