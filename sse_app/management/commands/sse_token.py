"""`manage.py sse_token`: make, list and revoke the bearer tokens of programs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.core.management.base import CommandError, CommandParser

from sse_app.access.models import AccessToken
from sse_app.access.tokens import create_token, revoke_token
from sse_app.conf import written
from sse_app.management.examples import CommandWithExamples


class Command(CommandWithExamples):
    """Makes tokens in a shell, so that a secret is shown once, and only to the one who made it."""

    help = (
        "Bearer tokens for programs that do not use Django: which groups they may read, and what\n"
        "they may publish (POST publish/), until when. A token permits nothing else. The database\n"
        "keeps only a digest, so a lost token can't be shown again, only revoked."
    )

    examples = """
examples:
  manage.py sse_token create importer --publish 'import.*' --event 'row.*' --days 90
  manage.py sse_token create dashboard --listen orders --listen 'chat.*'
  TOKEN=$(manage.py sse_token create nightly --publish orders --event '*' --days 1)
  curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
       -d '{"group": "orders", "event": "message", "data": 1}' https://example.org/events/publish/
  manage.py sse_token create prometheus --metrics --days 365
  manage.py sse_token create phone --user ann
  manage.py sse_token list
  manage.py sse_token revoke importer
"""

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        create = actions.add_parser(
            "create", help="make a token and print it, alone on stdout, only once"
        )
        create.add_argument("name", help="the token's purpose, such as importer")
        for option, text in (
            ("listen", "a group to read; '*' stands for any characters; can be repeated"),
            ("publish", "a group to publish to; '*' and repeats as above"),
            ("event", "an event to publish there; '*' and repeats as above"),
        ):
            create.add_argument(
                f"--{option}", action="append", default=[], metavar="PATTERN", help=text
            )
        create.add_argument(
            "--user", metavar="NAME", help="sign this user in, with the rights of the user only"
        )
        create.add_argument(
            "--metrics", action="store_true", help="permit to read the metrics (GET metrics/)"
        )
        create.add_argument(
            "--days", type=float, default=90.0, help="days until the token expires (default: 90)"
        )
        actions.add_parser("list", help="show every token's rights and state, but no secrets")
        revoke = actions.add_parser("revoke", help="end a token now; this can't be undone")
        revoke.add_argument("token", metavar="NAME_OR_ID", help="as shown by list")

    def handle(self, *args: Any, **options: Any) -> None:
        {"create": self._create, "list": self._list, "revoke": self._revoke}[options["action"]](
            options
        )

    def _create(self, options: dict[str, Any]) -> None:
        listen, publish, events = options["listen"], options["publish"], options["event"]
        rights = bool(listen or publish or events or options["metrics"])
        if options["user"] is None and not (listen or publish or options["metrics"]):
            raise CommandError(
                "The token would permit nothing: give --listen, --metrics, --publish or --user."
            )
        if options["user"] is not None and rights:
            raise CommandError("With --user the token has the user's rights: give no others.")
        if bool(publish) != bool(events):
            raise CommandError(
                "Give both --publish (groups) and --event (names, '*' for any), or neither."
            )
        try:
            token, text = create_token(
                options["name"],
                listen=listen,
                publish=publish,
                events=events,
                metrics=options["metrics"],
                lifetime=_lifetime(options["days"]),
                user=options["user"] and _user(options["user"]),
            )
        except ValueError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(text)
        # On stderr, so that a shell can assign stdout to a variable.
        self.stderr.write(
            f"Token {_line(token)}. The secret is not shown again.", style_func=lambda text: text
        )

    def _list(self, options: dict[str, Any]) -> None:
        for token in written(AccessToken).order_by("pk"):
            self.stdout.write(_line(token))
        if not written(AccessToken).exists():
            self.stderr.write("There are no tokens.", style_func=lambda text: text)

    def _revoke(self, options: dict[str, Any]) -> None:
        token = self._find(options["token"])
        if revoke_token(token):
            self.stdout.write(f"Token {token.pk} {token.name!r} is revoked.")
        else:
            self.stdout.write(f"Token {token.pk} {token.name!r} was already revoked.")

    def _find(self, wanted: str) -> AccessToken:
        """Return the token with that id, or the only valid token with that name."""
        by_number = wanted.isascii() and wanted.isdecimal() and len(wanted) <= 18
        found = list(
            written(AccessToken).filter(**({"pk": int(wanted)} if by_number else {"name": wanted}))
        )
        if len(found) > 1:
            found = [token for token in found if token.is_live()] or found[:1]
        if len(found) > 1:
            numbers = ", ".join(str(token.pk) for token in found)
            raise CommandError(f"Several tokens are named {wanted!r}; give an id: {numbers}.")
        if not found:
            raise CommandError(f"There is no token {wanted!r}; sse_token list shows all tokens.")
        return found[0]


def _user(name: str) -> Any:
    try:
        return get_user_model()._default_manager.get_by_natural_key(name)
    except ObjectDoesNotExist as error:
        raise CommandError(f"There is no user {name!r}.") from error


def _lifetime(days: float) -> timedelta:
    try:
        return timedelta(days=days)
    except (ValueError, OverflowError) as error:  # NaN, infinity, more than a timedelta holds
        raise ValueError(f"--days is {days}; it must be a number of days, such as 90.") from error


def _line(token: AccessToken) -> str:
    rights = [
        f"{verb} {', '.join(patterns)}"
        for verb, patterns in (
            ("listens to", token.listen),
            ("publishes to", token.publish),
            ("events", token.events),
        )
        if patterns
    ]
    if token.user_id is not None:
        rights.append(f"signs in the user {token.user_id}")
    if token.metrics:
        rights.append("reads metrics")
    if token.revoked_at is not None:
        state = f"revoked {token.revoked_at.isoformat(' ', 'minutes')}"
    else:
        verb = "expires" if token.is_live() else "expired"
        state = f"{verb} {token.expires_at.isoformat(' ', 'minutes')}"
    return "; ".join([f"{token.pk} {token.name!r}", *rights, state])
