"""`Cable`: a TCP relay that a test cuts, so that a network dies as networks do, without a word."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Cable:
    """Carries bytes between clients and a server on this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        #: Connections made before the last cut are dead for good; each knows its age.
        self._cuts = 0
        self._is_cut = False
        self._swallow = 0
        #: How many connections carried a request that begins so.
        self.requests: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing through any more, and end no connection."""
        self._cuts += 1
        self._is_cut = True

    def forget(self) -> None:
        """Let nothing through on the connections that are open; carry new connections."""
        self._cuts += 1

    def mend(self) -> None:
        """Carry new connections again, and end the old ones, as a browser does in a new network."""
        self._is_cut = False
        self._end()

    def lead_to(self, port: int) -> None:
        """Carry new connections to another server, and end the old ones."""
        self._port = port
        self._end()

    def swallow_answers(self, count: int) -> None:
        """Carry the next `count` POSTs to the server, and end their connections for an answer."""
        self._swallow = count

    def close(self) -> None:
        self._listener.close()
        self._end()

    def _end(self) -> None:
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            doomed = threading.Event()
            for source, target, up in ((client, server, True), (server, client, False)):
                args = source, target, up, self._cuts, doomed
                threading.Thread(target=self._carry, args=args, daemon=True).start()

    def _carry(
        self,
        source: socket.socket,
        target: socket.socket,
        up: bool,
        cuts: int,
        doomed: threading.Event,
    ) -> None:
        with suppress(OSError):
            while received := source.recv(65536):
                if self._is_cut or self._cuts > cuts:
                    continue
                if up and received.startswith((b"GET ", b"POST ")):
                    self.requests.append(received.split(b"\r\n")[0])
                    if received.startswith(b"POST ") and self._swallow:
                        self._swallow -= 1
                        doomed.set()
                if not up and doomed.is_set():
                    break
                target.sendall(received)
        if not (self._is_cut or self._cuts > cuts):
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
