"""A program whose threads are greenlets: it publishes and asks the database, one by one, then all.

Run as `python -m tests.support.greenlets gevent 50`; the arguments are the package that replaces
the threads, and the number of greenlets. The program prints how many have ended, and how many
threads of asyncio's executor are left, for which Python waits at its end.
"""

import sys
import threading
import warnings

package, count = sys.argv[1], int(sys.argv[2])
if package == "gevent":
    from gevent import monkey, spawn

    monkey.patch_all()
else:
    warnings.simplefilter("ignore")  # eventlet says that it is deprecated.
    from eventlet import monkey_patch, spawn

    monkey_patch()

import django  # noqa: E402 - the threads are replaced before all other imports

django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.db import connection  # noqa: E402

from sse_app import publish  # noqa: E402

ended = []


def work(number: int) -> None:
    """Publish and use the database, as a view or a task does."""
    publish("orders", "passing", str(number), durable=False)
    publish("orders", "durable", str(number))
    assert User.objects.count() == 0
    connection.close()
    ended.append(number)


work(0)
work(1)
greenlets = [spawn(work, number) for number in range(2, count)]
for greenlet in greenlets:
    greenlet.get() if package == "gevent" else greenlet.wait()
left = [thread for thread in threading.enumerate() if thread.name.startswith("asyncio")]
print(len(ended), len(left), flush=True)
