"""The app's HTTP endpoints other than the stream itself.

They answer an error with its status and a text, never with 500. They know no consumer and no open
stream. Private: include `sse_app.urls`.
"""
