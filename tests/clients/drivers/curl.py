"""curl: it prints one response; reading it and coming back is up to who uses it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from tests.support.parser import Parser

HTTP_ERROR = 22  # what curl exits with for 4xx and 5xx, with --fail


def listen(url: str, headers: dict[str, str], see: Callable[..., None]) -> None:
    last_id, retry = "", 1.0
    while True:
        resume = {"Last-Event-ID": last_id} if last_id else {}
        curl = ["curl", "--no-buffer", "--silent", "--fail", url]
        for name, value in (headers | resume).items():
            curl += ["--header", f"{name}: {value}"]
        parser = Parser()
        with subprocess.Popen(curl, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for line in process.stdout:
                parser.feed(line)
                while parser.events:
                    event = parser.events.pop(0)
                    see(event.name, event.data, event.id)
        if process.returncode == HTTP_ERROR:
            return
        last_id = parser.last_id or last_id
        retry = retry if parser.retry is None else parser.retry / 1000
        time.sleep(retry)
