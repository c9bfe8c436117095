"""What goes in: into the event log, then to the channel layer.

Knows nothing of readers and streams.
"""
