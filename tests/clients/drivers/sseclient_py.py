"""PyPI: sseclient-py on requests. It reads one response; coming back is up to who uses it."""

from __future__ import annotations

import time
from collections.abc import Callable

import requests
from sseclient import SSEClient


def listen(url: str, headers: dict[str, str], see: Callable[..., None]) -> None:
    last_id, retry = "", 1.0
    while True:
        resume = {"Last-Event-ID": last_id} if last_id else {}
        try:
            response = requests.get(url, headers=headers | resume, stream=True, timeout=(10, 60))
            response.raise_for_status()
            for event in SSEClient(response).events():
                last_id = event.id or last_id
                retry = retry if event.retry is None else int(event.retry) / 1000
                see(event.event, event.data, event.id)
        except requests.HTTPError:
            raise  # Not permitted: asking again is of no use.
        except requests.RequestException:
            pass
        time.sleep(retry)
