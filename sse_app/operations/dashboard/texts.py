"""The translated texts of the dashboard's script, which gets them with its page."""

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
        "feed.auth": _("Your permission has ended. Sign in and load the page again."),
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
        "figure.stalled": _("Disconnected"),
        "figure.heals": _("Heals"),
        "figure.resets": _("Resets"),
        "hint.waiting": _("Bytes that clients have not read yet"),
        "hint.lagged": _("Streams whose client read too slowly; they continue from the log later"),
        "hint.superseded": _(
            "Non-durable events that a slow reader missed, replaced by later ones"
        ),
        "hint.stalled": _(
            "Streams that were ended because the client read nothing for STALL_SECONDS"
        ),
        "hint.heals": _("How often events that the channel layer lost were read from the log"),
        "hint.resets": _(
            "How often a reader got sse.reset, because earlier events are lost for it"
        ),
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
        "none.streams": _("No matching streams."),
        "none.groups": _("No subscribers."),
        "none.processes": _("No process has reported yet."),
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
            "The page will not reconnect by itself. The user keeps all permissions: when the page "
            "is loaded again, it can open another stream."
        ),
        "ask.user": _("End all streams of %s?"),
        "ask.user.more": _(
            "The grants of open pages are revoked too: these pages get no events until they are "
            "loaded again. A user whom MAY_LISTEN, PUBLIC_GROUPS or a token still permits to "
            "listen can reconnect."
        ),
        "failed": _("It did not work: %s"),
        "pause": _("Pause"),
        "resume": _("Resume"),
    }
