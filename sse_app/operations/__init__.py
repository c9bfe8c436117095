"""Reports, health checks, the doctor, shutdown and housekeeping of server processes.

Each server process writes a row about itself, and any process can read all rows. Nothing here
decides about rights or events, and a failure here ends no stream. The wing knows no feature:
presence and broadcasts register their work in `runtime.duties`. All modules are private. Public:
`sse_app.metrics`, the commands, the endpoints and the admin that use them.
"""
