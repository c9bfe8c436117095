"""The tools on which all wings run: telemetry, tasks, threads, and calls of the project's code.

Promises that no exception of the project's code ends a task or thread of the app. Must not know
any other wing. Private.
"""
