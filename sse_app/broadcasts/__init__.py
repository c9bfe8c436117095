"""Broadcasts: events that staff compose in Django's admin, sent once, now or at a given time.

Nothing below knows of broadcasts: `publishing` sends them, and sending them is a duty of each
server process.

Private: import `BroadcastActionMixin` from `sse_app.admin`.
"""
