"""One driver for each client: `listen()` listens for ever, as the client's users would."""
