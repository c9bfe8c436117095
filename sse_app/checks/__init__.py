"""System checks of the settings, and those of `check --deploy`.

They read settings and never ask a server; `sse_doctor` does that. No module imports this wing but
`apps`, which registers the checks. All modules are private.
"""
