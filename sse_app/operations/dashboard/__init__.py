"""The admin's dashboard of live streams. It costs nothing until its page is opened.

The dashboard shows the rows of `ServerProcess` and not the streams of its own process, so it shows
all processes alike. All modules are private; users see `admin.LiveStreamsAdmin`.
"""
