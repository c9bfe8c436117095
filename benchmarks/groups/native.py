"""Servers in C: nginx with nchan, as its documentation has it, and `floor.c`."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from ..fanout.apps.pacing import stamped
from ..fanout.server import BACKLOG, Server, processor_seconds
from ..publishers import GROUP, NAME, own
from .cases import NCHAN_MODULE

#: What an event has besides its data: the id is shorter than this app's.
FRAME: Final = 58
CONFIGURATION: Final = """
load_module {module};
daemon off; worker_processes 1; worker_cpu_affinity 01; {user}
worker_rlimit_nofile {files};
pid {folder}/pid; error_log {folder}/error.log error;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port} backlog={backlog};
        location = /publish {{ nchan_publisher; nchan_channel_id $arg_id; }}
        location = /sub {{
            nchan_subscriber eventsource;
            nchan_channel_id $arg_id; nchan_channel_id_split_delimiter ",";
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


class Nchan(Server):
    """One worker. The processor time has a POST of each event in it."""

    def _command(self) -> list[str]:
        folder = self.around.found.folder
        configuration = folder / "nginx.conf"
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        configuration.write_text(
            CONFIGURATION.format(
                module=NCHAN_MODULE,
                # As root, nginx changes to a user who may not enter the folder.
                user="user root;" if os.geteuid() == 0 else "",
                files=files,
                # nginx closes streams when a sixteenth is left of these.
                connections=2 * files,
                folder=folder,
                port=self.port,
                backlog=BACKLOG,
            )
        )
        return ["nginx", "-c", str(configuration), "-p", str(folder)]

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far, of the worker."""
        pid = self._process.pid
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(processor_seconds(int(worker)) for worker in workers)

    def pace(self, rate: float, seconds: float, size: int, groups: int = 0) -> int:
        """See `Server.pace()`."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        count, most, began = 0, round(rate * seconds), time.monotonic()
        while count < most and (now := time.monotonic()) < began + seconds:
            time.sleep(max(0.0, began + count / rate - now))
            group = own(random.randrange(groups)) if groups else GROUP
            headers = {"X-EventSource-Event": NAME}
            connection.request("POST", f"/publish?id={group}", stamped(size - FRAME), headers)
            connection.getresponse().read()
            count += 1
        connection.close()
        return count


class Floor(Server):
    """What the system calls alone cost."""

    def _command(self) -> list[str]:
        program = self.around.found.folder / "floor"
        source = Path(__file__).with_name("floor.c")
        subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
        return [str(program), str(self.port)]
