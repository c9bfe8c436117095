from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('sse_app', '0010_token_user'),
    ]

    operations = [
        migrations.AddField(
            model_name='groupmember',
            name='data',
            field=models.TextField(db_default=''),
        ),
        migrations.AddField(
            model_name='storedevent',
            name='excluded',
            field=models.TextField(db_default=''),
        ),
    ]
