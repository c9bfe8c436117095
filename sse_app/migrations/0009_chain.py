from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('sse_app', '0008_no_templates'),
    ]

    operations = [
        migrations.AddField(
            model_name='grouphead',
            name='mark',
            field=models.CharField(db_default='', max_length=4),
        ),
        migrations.AddField(
            model_name='grouphead',
            name='marked',
            field=models.BigIntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='grouphead',
            name='previous',
            field=models.CharField(db_default='', max_length=4),
        ),
        migrations.AddField(
            model_name='storedevent',
            name='marks',
            field=models.CharField(db_default='', max_length=8),
        ),
    ]
