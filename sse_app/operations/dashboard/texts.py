"""What the dashboard's script says, translated: it is given these with its page."""

from __future__ import annotations

from django.utils.translation import gettext as _


def texts() -> dict[str, str]:
    """Return the texts by name, in the language of the request."""
    return {**_states(), **_sorts(), **_figures(), **_rows(), **_actions()}


def _states() -> dict[str, str]:
    return {
        "feed.connecting": _("Connecting…"),
        "feed.live": _("Live"),
        "feed.paused": _("Paused"),
        "feed.reconnecting": _("Reconnecting…"),
        "feed.away": _("The database does not answer…"),
        "feed.auth": _("You may not look any more. Sign in and load the page again."),
        "state.open": _("All open"),
        "state.live": _("Live"),
        "state.catching up": _("Catching up"),
        "state.lagging": _("Lagging"),
        "state.held": _("Held"),
        "state.ended": _("Ended"),
        "state.closed": _("Ended"),
    }


def _sorts() -> dict[str, str]:
    return {
        "sort.newest": _("Newest first"),
        "sort.oldest": _("Oldest first"),
        "sort.queue": _("Largest queue first"),
        "sort.lag": _("Furthest behind first"),
        "sort.bytes": _("Most bytes first"),
        "sort.user": _("By user"),
    }


def _figures() -> dict[str, str]:
    return {
        "figure.open": _("Open streams"),
        "figure.bytes": _("Sent"),
        "figure.waiting": _("Waiting"),
        "figure.lagged": _("Slow readers"),
        "figure.superseded": _("Drops"),
        "figure.stalled": _("Let go"),
        "figure.heals": _("Heals"),
        "figure.resets": _("Resets"),
        "hint.waiting": _("Bytes that clients have not taken yet"),
        "hint.lagged": _("Streams whose client took no more; they read on from the log later"),
        "hint.superseded": _("Passing events that a slow reader did not get, for later ones"),
        "hint.stalled": _("Streams that were ended since nothing left for STALL_SECONDS"),
        "hint.heals": _("How often a group was read from the log for what the layer lost"),
        "hint.resets": _("Readers that were told that what came before is lost for them"),
        "recent": _("%s in the last minute"),
        "most": _("most %s"),
        "per_second": _("%s/s"),
    }


def _rows() -> dict[str, str]:
    return {
        "anonymous": _("anonymous"),
        "filter": _("only %s"),
        "count.streams": _("%(shown)s of %(count)s streams"),
        "count.groups": _("%(shown)s of %(count)s groups"),
        "none.streams": _("No stream fits."),
        "none.groups": _("Nobody listens."),
        "none.processes": _("No process has said anything yet."),
        "hub.on": _("running"),
        "hub.off": _("idle"),
        "draining": _("stopping"),
        "lag": _("%s late"),
        "silent": _("silent for %s"),
        "why": _("Ended: %s"),
    }


def _actions() -> dict[str, str]:
    return {
        "explain": _("Why not?"),
        "explain.of": _("Why did stream %s not get an event?"),
        "end": _("End"),
        "end.of": _("End stream %s"),
        "end_user": _("End all"),
        "end_user.of": _("End all streams of %s"),
        "ask.stream": _("End this stream of %s?"),
        "ask.stream.more": _(
            "Its page is told not to come back by itself. Nothing is taken from the user: once the "
            "page is loaded again, it may open another stream."
        ),
        "ask.user": _("End all streams of %s?"),
        "ask.user.more": _(
            "What pages were granted so far is taken back too: pages that are open now can't "
            "listen again until they are loaded anew. Whoever MAY_LISTEN, PUBLIC_GROUPS or a token "
            "permits to listen can come back."
        ),
        "failed": _("It did not work: %s"),
        "pause": _("Pause"),
        "resume": _("Resume"),
    }
