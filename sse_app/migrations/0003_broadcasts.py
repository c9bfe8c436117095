"""Broadcasts to several groups, of three kinds, at a time; those that were sent are kept."""

import json
from typing import Any

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import sse_app.broadcasts.models


def keep(apps: Any, schema_editor: Any) -> None:
    """Write what was sent in the new columns: a string went out as text, all else as JSON."""
    broadcasts = apps.get_model("sse_app", "Broadcast").objects.using(schema_editor.connection.alias)
    for row in broadcasts.iterator():
        text = isinstance(row.data, str)
        broadcasts.filter(pk=row.pk).update(
            groups=[row.group],
            kind="text" if text else "json",
            body=row.data if text else json.dumps(row.data, ensure_ascii=False),
            created_at=row.sent_at,
        )


def give_back(apps: Any, schema_editor: Any) -> None:
    """Write the first group and the data in the old columns; what was not sent is gone."""
    broadcasts = apps.get_model("sse_app", "Broadcast").objects.using(schema_editor.connection.alias)
    broadcasts.exclude(state="sent").delete()
    for row in broadcasts.iterator():
        data = json.loads(row.body or "{}") if row.kind == "json" else row.body
        broadcasts.filter(pk=row.pk).update(group=row.groups[0], data=data)


class Migration(migrations.Migration):

    dependencies = [
        ("sse_app", "0002_access"),
    ]

    operations = [
        migrations.AddField("broadcast", "groups", models.JSONField(default=list, verbose_name="groups")),
        migrations.AddField(
            "broadcast",
            "kind",
            models.CharField(
                choices=[("json", "JSON"), ("text", "text"), ("template", "Django template")],
                default="json",
                max_length=8,
                verbose_name="kind",
            ),
        ),
        migrations.AddField(
            "broadcast",
            "body",
            models.TextField(
                blank=True,
                default="",
                validators=[django.core.validators.ProhibitNullCharactersValidator()],
                verbose_name="data",
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            "broadcast",
            "send_at",
            models.DateTimeField(blank=True, null=True, verbose_name="send at"),
        ),
        migrations.AddField(
            "broadcast",
            "state",
            models.CharField(
                choices=[
                    ("scheduled", "scheduled"),
                    ("sent", "sent"),
                    ("cancelled", "cancelled"),
                    ("failed", "failed"),
                ],
                default="sent",
                editable=False,
                max_length=9,
                verbose_name="state",
            ),
        ),
        migrations.AddField(
            "broadcast",
            "created_at",
            models.DateTimeField(
                default=django.utils.timezone.now, editable=False, verbose_name="composed at"
            ),
        ),
        migrations.AddField(
            "broadcast",
            "error",
            models.TextField(blank=True, default="", editable=False, verbose_name="error"),
            preserve_default=False,
        ),
        migrations.AddField("broadcast", "places", models.JSONField(default=list, editable=False)),
        migrations.AddField(
            "broadcast",
            "once",
            models.CharField(editable=False, max_length=64, null=True, unique=True),
        ),
        migrations.AlterField(
            "broadcast",
            "sent_at",
            models.DateTimeField(editable=False, null=True, verbose_name="sent at"),
        ),
        # Its default is for the way back, where rows are made before they are filled.
        migrations.AlterField("broadcast", "group", models.CharField(default="", max_length=80)),
        migrations.RunPython(keep, give_back),
        migrations.AlterField(
            "broadcast",
            "state",
            models.CharField(
                choices=[
                    ("scheduled", "scheduled"),
                    ("sent", "sent"),
                    ("cancelled", "cancelled"),
                    ("failed", "failed"),
                ],
                default="scheduled",
                editable=False,
                max_length=9,
                verbose_name="state",
            ),
        ),
        migrations.RemoveField("broadcast", "group"),
        migrations.RemoveField("broadcast", "data"),
        migrations.AlterField(
            "broadcast",
            "event",
            models.CharField(
                default="message",
                help_text="The event's name, for example order.updated.",
                max_length=64,
                validators=[sse_app.broadcasts.models.name_validator],
                verbose_name="event",
            ),
        ),
        migrations.AlterModelOptions(
            "broadcast",
            options={
                "default_permissions": ("view",),
                "ordering": ["-created_at", "-pk"],
                "permissions": [("send_broadcast", "Can send broadcasts")],
                "verbose_name": "broadcast",
                "verbose_name_plural": "broadcasts",
            },
        ),
        migrations.AddIndex(
            "broadcast",
            models.Index(
                condition=models.Q(("state", "scheduled")), fields=["send_at"], name="sse_app_due"
            ),
        ),
        migrations.AddIndex("broadcast", models.Index(fields=["sent_at"], name="sse_app_sent")),
        migrations.CreateModel(
            name="BroadcastCount",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("process", models.CharField(max_length=64)),
                ("streams", models.PositiveBigIntegerField()),
                ("counted_at", models.DateTimeField()),
                (
                    "broadcast",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="counts",
                        to="sse_app.broadcast",
                    ),
                ),
            ],
            options={
                "verbose_name": "broadcast count",
                "verbose_name_plural": "broadcast counts",
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("broadcast", "process"), name="sse_app_counted_once"
                    )
                ],
            },
        ),
    ]
