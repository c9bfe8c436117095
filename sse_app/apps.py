"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SseAppConfig(AppConfig):
    """`sse_app` in `INSTALLED_APPS`."""

    name = "sse_app"
    verbose_name = _("Server-Sent Events")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register checks, services, duties and signal receivers; prepare a loaded Daphne."""
        from .access import (
            control_group,
            disconnect,
            readers,
            revalidation,
        )
        from .broadcasts import sending
        from .checks import (
            deployment,  # noqa: F401
            settings,  # noqa: F401
        )
        from .delivery import hub, topics
        from .delivery.transports import daphne_requests
        from .operations import (
            housekeeping,
            reports,
            stream_log,
        )
        from .presence import tracker
        from .publishing import outbox
        from .runtime.duties import DUTIES

        for service in (
            outbox.HubOutbox,
            housekeeping.Housekeeping,
            control_group.ControlGroup,
            revalidation.Revalidator,
        ):
            hub.register_service(service)
        topics.find_readers_by(readers.find)
        daphne_requests.install()
        reports.connect_signals()
        stream_log.connect_signals()
        disconnect.connect_signals()
        tracker.connect_signals()
        sending.connect_signals()
        for duty in (sending.send_due, sending.count_deliveries, tracker.keep_presence):
            DUTIES.register(duty)
