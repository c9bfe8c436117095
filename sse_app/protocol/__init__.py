"""The vocabulary: what an event, a position and a group are, and their bytes.

Promises that an instance of `Event` is valid and that equal events have equal bytes on the wire.
Must not know settings, databases or event loops. Private: import `Event` from `sse_app`.
"""
