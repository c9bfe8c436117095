"""The tests' site for WSGI servers, such as gunicorn with greenlets for threads."""

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
