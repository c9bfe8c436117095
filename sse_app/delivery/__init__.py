"""The wing that brings events from the channel layer and the event log to the clients.

Promises that each reader gets the events of its groups in the order of their logs, without gap or
repeat, or gets `sse.reset` where this can't be proved. Must not know publishers, rights, limits or
dashboards: wings above register hub services and wrap streams.

Private: import `subscribe` and `snapshot` from `sse_app`.
"""
