"""From the channel layer and the event log to the socket, in order, without gap or repeat.

Knows nothing of publishers, and no rights.
"""
