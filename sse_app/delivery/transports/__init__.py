"""How a stream's bytes are sent: by plain ASGI, and by Daphne with flow control.

Promises a bounded queue for each client, and a clean end of the response where the client still
reads. Must not know events or groups. Private.
"""
