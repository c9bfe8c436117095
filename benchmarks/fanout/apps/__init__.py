"""What the servers serve: this app and what it is compared with.

One module each with an ASGI application of that name, so that no process has more in it than it
needs. All send the same events of about the same number of bytes, and begin a stream with a first
event.
"""
