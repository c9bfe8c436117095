"""What the app costs while it is under load: `make soak`, or `make soak SOAK=--quick`.

Figures of this machine, as a table: the memory of a server process (RSS) beside fifty readers that
never read and after thousands of bad requests, how much longer `bulk_create()` takes with events,
how late scheduled broadcasts are, how soon pages get events, and what is left of thousands of
groups that were joined and left again. Nothing here fails for being slow: the tests count the facts
that must be true.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

import django

from benchmarks.churn import Churn, measure
from tests.support import postgres
from tests.support.chromium import CHROMIUM, FLAGS
from tests.support.hostility import fixed_list
from tests.support.other_servers import Granian, Hypercorn, Uvicorn, documented
from tests.support.servers import Daphne, Server
from tests.support.sleepers import connect, flood, run
from tests.support.tabs import Tabs, publish
from tests.support.targets import Target

MIB = 1024 * 1024
BULK = """
from statistics import median
from time import perf_counter
from sse_app.publishing import outbox
from sse_app.changes import suppress_changes
from tests.shop.models import Order

def seconds():
    rows = [Order(status="paid", total=n) for n in range({count})]
    began = perf_counter()
    Order.objects.bulk_create(rows)
    return perf_counter() - began

plain, published = [], []
for _ in range(7):
    with suppress_changes():
        plain.append(seconds())
    published.append(seconds())
    assert outbox.flush(30)  # What still leaves would slow the next round.
result = median(published) / median(plain)
"""

#: Notes, in a page, how long after its load the first event comes.
NOTE_FIRST = """
customElements.whenDefined('sse-stream').then(() => setTimeout(() => {
    document.querySelector('sse-stream').stream.on('n', () => {
        const [load] = performance.getEntriesByType('navigation');
        window.first = performance.now() - load.loadEventStart;
    });
}));
"""


@dataclass(frozen=True)
class Scale:
    """How much of each."""

    sleepers: int = 50
    events: int = 4500
    requests: int = 10
    rows: int = 10_000
    broadcasts: int = 10
    tabs: int = 10
    churn: Churn = field(default_factory=Churn)


QUICK = Scale(
    sleepers=10,
    events=1000,
    requests=1,
    rows=1000,
    broadcasts=3,
    tabs=3,
    churn=Churn(groups=1000, seconds=60),
)


class Ground:
    """A folder with a migrated database, and the servers on copies of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._migrated = folder / "migrated.sqlite3"
        server = Daphne(folder, {"DATABASE_URL": f"sqlite:///{self._migrated}"})
        server.manage("migrate", "--verbosity", "0", "--run-syncdb")
        server.close()

    @contextmanager
    def server(self, kind: type[Server], **sse_app: Any) -> Iterator[Server]:
        """Run a server of one kind on a database of its own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        environment = {
            "DATABASE_URL": f"sqlite:///{shutil.copy(self._migrated, folder)}",
            "REDIS_URL": "",
            "DEBUG": "0",
            "SECRET_KEY": "only-of-this-run-" + "x" * 40,
        }
        options = [] if kind is Daphne else documented(kind)
        limits = {"STREAMS_PER_ANONYMOUS_ADDRESS": None, "SPEAK_RATE": 1e6, "SPEAK_BURST": 10**6}
        server = kind(folder, environment, options=options, **limits, **sse_app)
        try:
            yield server.start()
        finally:
            server.close()


def resident(server: Server) -> int:
    """Return the bytes of memory of the process that serves: it may be a child of the server."""
    pid = run(server, "import os\nresult = os.getpid()")
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def memory_beside_sleepers(ground: Ground, scale: Scale, *, kind: type[Server]) -> str:
    """Publish at full speed beside readers that never read."""

    async def measure(server: Server) -> int:
        async with server.stream("group=orders") as healthy:
            await healthy.next()
            sleepers = [connect(server) for _ in range(scale.sleepers)]
            await flood(server, healthy, range(500))
            before = resident(server)
            await flood(server, healthy, range(500, scale.events))
            grown = resident(server) - before
        for sleeper in sleepers:
            sleeper.close()
        return grown

    with ground.server(kind) as server:
        return f"{asyncio.run(measure(server)) / MIB:.1f} MiB more"


def memory_after_bad_requests(ground: Ground, scale: Scale) -> str:
    """Send the list of bad requests, again and again."""
    with ground.server(Daphne) as server:
        target = Target(server)  # type: ignore[arg-type]  # it is a Daphne
        target.ask_all(list(fixed_list()))
        before = resident(server)
        for _ in range(scale.requests):
            target.ask_all(list(fixed_list()))
        return f"{(resident(server) - before) / MIB:.1f} MiB more after {target.sent} requests"


def bulk_create(ground: Ground, scale: Scale) -> str:
    """Compare `bulk_create()` with events and without."""
    with ground.server(Daphne) as server:
        return f"{run(server, BULK.format(count=scale.rows)):.2f} times as long"


def scheduled_broadcasts(ground: Ground, scale: Scale) -> str:
    """Measure how long after its time each broadcast arrives."""
    from tests.support.staff import Staff  # Late: the apps are ready only now.

    async def measure(server: Daphne) -> list[float]:
        first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
        times = [first + timedelta(seconds=n) for n in range(scale.broadcasts)]
        late = []
        async with server.stream("group=chat.late") as stream:
            await stream.next()
            with Staff(server) as staff:
                for at in times:
                    await asyncio.to_thread(staff.broadcast, "chat.late", "late", at)
            for at in times:
                await stream.next()
                late.append(time.time() - at.timestamp())
        return late

    with ground.server(Daphne) as server:
        late = asyncio.run(measure(server))  # type: ignore[arg-type]  # it is a Daphne
    return f"{max(late):.2f} s late at the most"


def pages(ground: Ground, scale: Scale) -> str:
    """Measure how soon a new page gets events, and all tabs do after the leading tab has closed."""
    if CHROMIUM is None:
        return "no Chromium"
    from playwright.sync_api import sync_playwright

    with ground.server(Daphne, HEARTBEAT=0.5) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(base_url=server.url)
        page.add_init_script(NOTE_FIRST)
        position = run(server, "from sse_app import cursor\nresult = cursor('orders')")
        publish(server, range(1))  # type: ignore[arg-type]  # it is a Daphne
        tag = f'{{% sse_script %}}{{% sse_stream "orders" after="{position}" %}}'
        page.goto(f"/test/page/?tag={quote(tag)}")
        page.wait_for_function("() => window.first")
        first = page.evaluate("first")
        page.close()
        tabs = Tabs(browser.new_context(base_url=server.url))
        opened = [tabs.open("group=orders") for _ in range(scale.tabs)]
        opened.pop(0).close()
        began = time.monotonic()
        publish(server, range(1))  # type: ignore[arg-type]  # it is a Daphne
        for tab in opened:
            tab.until_heard(1)
        heard = time.monotonic() - began
        browser.close()
    return f"the first event {first:.0f} ms after the load, {heard:.2f} s until all hear again"


def churn_on(ground: Ground, scale: Scale, *, on_redis: bool) -> str:
    """Go through thousands of groups; what there is before and after."""
    folder = Path(tempfile.mkdtemp(dir=ground.folder))
    return measure(folder, scale.churn, on_redis=on_redis)


def main() -> None:
    """Measure everything, and print a line for each figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of each")
    parser.add_argument("--only", default="", help="only figures whose name has this text")
    given = parser.parse_args()
    django.setup()
    scale = QUICK if given.quick else Scale()
    figures: dict[str, Callable[[Ground, Scale], str]] = {
        f"{kind.module} beside {scale.sleepers} readers that never read": partial(
            memory_beside_sleepers, kind=kind
        )
        for kind in (Daphne, Uvicorn, Hypercorn, Granian)
    }
    figures |= {
        "daphne under bad requests": memory_after_bad_requests,
        f"bulk_create() of {scale.rows} rows with events": bulk_create,
        f"{scale.broadcasts} scheduled broadcasts": scheduled_broadcasts,
        f"{scale.tabs} tabs": pages,
        "churn on SQLite": partial(churn_on, on_redis=False),
        "churn on Redis": partial(churn_on, on_redis=True),
    }
    try:
        with tempfile.TemporaryDirectory(prefix="sse-soak-") as folder:
            ground = Ground(Path(folder))
            for name, figure in figures.items():
                if given.only in name:
                    print(f"{name}: {figure(ground, scale)}", flush=True)
    finally:
        postgres.stop()


if __name__ == "__main__":
    main()
