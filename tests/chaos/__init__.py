"""Chaos: real servers, publishers and Valkey, killed at random, and clients that miss nothing.

`python -m tests.chaos --help` says how to run it, `make chaos` runs all of it.
"""
