"""What every process of the app runs on: telemetry, tasks, threads, calls of the project's code.

Imports nothing of the app.
"""
