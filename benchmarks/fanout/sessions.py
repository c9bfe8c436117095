"""Signs users in without a browser: `python -m benchmarks.fanout.sessions COUNT FILE`.

A user and a session each, as a login would leave them in the database; the file gets the values of
the session cookies, one a line.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import django


def sign_in(count: int) -> list[str]:
    """Return the session keys of `count` users that are signed in."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.hashers import make_password
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore
    from django.contrib.sessions.models import Session
    from django.utils import timezone
    from django.utils.crypto import get_random_string

    users = User.objects.bulk_create(
        User(username=f"reader-{n}", password=make_password(None)) for n in range(count)
    )
    expires, store = timezone.now() + timedelta(days=1), SessionStore()
    sessions = [
        Session(
            session_key=get_random_string(32),
            session_data=store.encode(
                {
                    SESSION_KEY: str(user.pk),
                    BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend",
                    HASH_SESSION_KEY: user.get_session_auth_hash(),
                }
            ),
            expire_date=expires,
        )
        for user in users
    ]
    return [session.session_key for session in Session.objects.bulk_create(sessions)]


if __name__ == "__main__":
    django.setup()
    Path(sys.argv[2]).write_text("\n".join(sign_in(int(sys.argv[1]))))
