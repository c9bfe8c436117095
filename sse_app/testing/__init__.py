"""Tools for the tests of projects that use the app, without mocks and without a network.

No module of the app imports this wing. Public: the names below, and the pytest fixtures in
`.fixtures` with their classes `live.LiveDaphne` and `clocks.SseClock`.
"""

from .capturing import Capture, capture_events
from .streaming import Received, TestStream, stream

__all__ = ["Capture", "Received", "TestStream", "capture_events", "stream"]
