"""How a stream's bytes leave: plain ASGI, and Daphne with flow control."""
