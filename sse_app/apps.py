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
        """Register checks, services, duties and receivers of signals; prepare a loaded Daphne."""
        from .access import (
            control_group,
            revalidation,
        )
        from .access import disconnect as revocation
        from .broadcasts import sending as broadcasts
        from .checks import deployment as deploy_checks  # noqa: F401
        from .checks import settings as checks  # noqa: F401
        from .delivery import hub
        from .delivery.transports import daphne_requests
        from .operations import (
            housekeeping,
            processes,
            reports,
        )
        from .operations import stream_log as stream_logs
        from .presence import tracker as attendance
        from .publishing import outbox as layer

        for service in (
            layer.HubOutbox,
            housekeeping.Housekeeping,
            control_group.ControlGroup,
            revalidation.Revalidator,
        ):
            hub.register_service(service)
        daphne_requests.install()
        reports.connect_signals()
        stream_logs.connect_signals()
        revocation.connect_signals()
        attendance.connect_signals()
        for duty in (broadcasts.send_due, broadcasts.tally, attendance.keep_presence):
            if duty not in processes.duties:  # A test that overrides INSTALLED_APPS comes again.
                processes.duties.append(duty)
