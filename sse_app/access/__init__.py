"""Decides who may listen and speak, until when, and how many streams may be open.

A right that ends ends its streams, in every process. Knows nothing of presence, broadcasts, the
dashboard or the endpoints. Private: import `disconnect` and `adisconnect` from `sse_app`.
"""
