"""A server process without free descriptors: publishing needs none, and the log is short."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ..support.servers import Daphne
from ..support.sleepers import connect, run

#: Takes all descriptors, runs `work`, and gives them back.
WITHOUT_DESCRIPTORS = """
import os, resource, time
from sse_app import publish
from sse_app.eventlog import event_log
from sse_app.protocol.events import Event
{prepare}
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
# So low that the descriptors of a connection that is closed can't be used again.
resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
try:
    {work}
finally:
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
"""
PUBLISH_THRICE = "result = [publish('g', 'n', 'x').offset for _ in range(3)]"
#: Returns after twenty reads that failed: no connection is kept for them, as if the file was
#: another one each time. Somebody asks for `health/`, so that the unchanged file is read, too.
READ_CHANGES = """
from sse_app.delivery.hub import running_hubs
from sse_app.runtime import connections
for hub in running_hubs():
    hub.observe_checks()
connections.file_identity = lambda path: object()
log = type(event_log())
real, failed = log.achanges, []
async def counted(self, *args):
    try:
        return await real(self, *args)
    except Exception as error:
        failed.append(error)
        raise
log.achanges = counted
"""
AFTER_TWENTY = """
    try:
        publish("g", "n", "x")
    except Exception as error:
        result = type(error).__name__
    while len(failed) < 20:
        time.sleep(0.01)
    log.achanges = real
"""


def test_without_descriptors_a_view_publishes_or_fails_at_once(
    make_daphne: Callable[..., Daphne], valkey: str
) -> None:
    """The log's connection is there, the event loop for the layer is not: the event is stored."""
    log = {"BACKEND": "sse_app.eventlog.RedisEventLog", "URL": valkey, "PREFIX": "test.descriptors"}
    daphne = make_daphne({"REDIS_URL": valkey}, EVENT_LOG=log)
    prepare = "first = event_log().append([Event.of('g', 'n', 'x')])[0].offset"
    code = WITHOUT_DESCRIPTORS.format(prepare=prepare, work=PUBLISH_THRICE)
    offsets = run(daphne, code)
    assert offsets == list(range(offsets[0], offsets[0] + 3))
    assert daphne.text().count("can't be sent on the channel layer") == 1
    assert daphne.text().count("Exception ignored") <= 1, (
        "Python complains of each loop that is not made"
    )


@pytest.mark.slow
def test_without_descriptors_the_log_has_few_lines(make_daphne: Callable[..., Daphne]) -> None:
    daphne = make_daphne(CHECK_INTERVAL=0.05, SWEEP_INTERVAL=0.05)
    stream = connect(daphne)
    code = WITHOUT_DESCRIPTORS.format(prepare=READ_CHANGES, work=AFTER_TWENTY.strip())
    assert run(daphne, code) == "OperationalError"
    told = re.findall(r"The hub's (\S+) failed", daphne.text())
    assert any(name.startswith("Hub._check") for name in told), told
    assert len(told) == len(set(told)), told
    stream.close()
