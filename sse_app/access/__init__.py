"""Decides who may listen and speak, until when, and how many streams may be open.

When a right ends, its streams end in every process. Knows nothing of presence, broadcasts, the
dashboard or the endpoints. Private: import `disconnect` and `adisconnect` from `sse_app`.
"""
