"""The demo's app, which registers its handlers and signal receivers when it starts."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    """The demo site as a Django app."""

    name = "project"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the chat's handler, and the receivers of the clock and the showcase."""
        from project import (
            clock,  # noqa: F401
            inbox,  # noqa: F401
            showcase,  # noqa: F401
        )
