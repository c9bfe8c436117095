"""Publishing: events go to the event log and then to the channel layer, with or without a loop.

An event of a transaction leaves only if the transaction commits. The wing knows nothing of streams,
of readers or of access.

Private: import its public functions from `sse_app`.
"""
