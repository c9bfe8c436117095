"""The admin's dashboard of live streams. It costs nothing until its page is opened.

The dashboard reads the rows of `ServerProcess` and never the hub or the streams of its own process, so it
shows all processes alike. All modules are private; `admin.LiveStreamsAdmin` is what users see.
"""
