"""A session engine of a project's own: sessions in cookies, by a class with another name."""

from __future__ import annotations

from django.contrib.sessions.backends import signed_cookies


class SessionStore(signed_cookies.SessionStore):
    """As Django's, in another module."""
