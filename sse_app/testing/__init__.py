"""For the tests of projects that use the app; its pytest fixtures are in `.fixtures`."""

from .capturing import Capture, capture_events
from .streaming import Received, TestStream, stream

__all__ = ["Capture", "Received", "TestStream", "capture_events", "stream"]
