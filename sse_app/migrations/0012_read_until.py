from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('sse_app', '0011_excluded'),
    ]

    operations = [
        migrations.AddField(
            model_name='serverprocess',
            name='read_until',
            field=models.DateTimeField(editable=False, null=True),
        ),
    ]
