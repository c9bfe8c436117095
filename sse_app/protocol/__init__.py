"""The vocabulary: what an event, a position and a group are, and their bytes.

Pure: no settings, no database, no event loop.
"""
