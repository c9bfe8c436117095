"""Broadcasts are JSON or text: scheduled templates fail here, and sent ones stay in the history."""

from typing import Any

from django.db import migrations, models

ERROR = (
    "Not sent: templates can't be broadcast any more. Compose it again as JSON or as text, or "
    "publish a template in code, with publish_template()."
)


def fail_scheduled_templates(apps: Any, schema_editor: Any) -> None:
    """Mark them in one statement, so that no other process sends one in between."""
    rows = apps.get_model("sse_app", "Broadcast").objects.using(schema_editor.connection.alias)
    rows.filter(state="scheduled", kind="template").update(state="failed", error=ERROR)


class Migration(migrations.Migration):

    dependencies = [
        ("sse_app", "0007_ticket_session"),
    ]

    operations = [
        migrations.AlterField(
            "broadcast",
            "kind",
            models.CharField(
                choices=[("json", "JSON"), ("text", "text")],
                default="json",
                max_length=8,
                verbose_name="kind",
            ),
        ),
        # On the way back they stay failed: sent late, without a question, they would surprise.
        migrations.RunPython(fail_scheduled_templates, migrations.RunPython.noop),
    ]
