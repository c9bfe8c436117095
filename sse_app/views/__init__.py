"""The HTTP endpoints beside the stream."""
