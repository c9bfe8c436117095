"""Users of the admin."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import httpx
from django.contrib.auth.models import Permission, User
from django.test import Client

from .patience import PATIENCE
from .servers import Daphne


def staff(*permissions: str) -> Client:
    """A client signed in as somebody on the staff who has just these permissions."""
    user = User.objects.create_user(f"staff {User.objects.count()}", is_staff=True)
    for name in permissions:
        user.user_permissions.add(
            Permission.objects.get(
                content_type__app_label=name.split(".")[0], codename=name.split(".")[1]
            )
        )
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


ADD = "/admin/sse_app/broadcast/add/"
LIST = "/admin/sse_app/broadcast/"


class Staff:
    """Somebody who may send broadcasts, in a browser without a screen."""

    def __init__(self, site: Daphne) -> None:
        self.client = httpx.Client(base_url=site.url, timeout=PATIENCE)
        self.client.post("/test/login/", data={"name": "boss"}).raise_for_status()
        run(
            site,
            "from django.contrib.auth.models import User\n"
            "User.objects.filter(username='boss').update(is_staff=True, is_superuser=True)",
        )
        self.client.get(ADD).raise_for_status()

    def __enter__(self) -> Staff:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def broadcast(self, groups: str, body: str, at: datetime | None = None) -> str:
        """Compose and confirm; return the page that asked."""
        fields = {"groups": groups, "event": "n", "kind": "text", "body": body}
        if at:
            fields |= {"send_at_0": f"{at:%Y-%m-%d}", "send_at_1": f"{at:%H:%M:%S}"}
        fields["csrfmiddlewaretoken"] = self.client.cookies["csrftoken"]
        asked = self.client.post(ADD, data=fields)
        assert 'name="_confirm"' in asked.text
        assert self.client.post(ADD, data={**fields, "_confirm": "1"}).status_code == 302
        return asked.text

    def delivered(self) -> list[str]:
        """What the history says of each broadcast, the latest first."""
        return re.findall(r'class="field-delivered">([^<]*)<', self.client.get(LIST).text)


def run(site: Daphne, code: str) -> Any:
    answer = httpx.post(f"{site.url}/test/run/", data={"code": code}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text[-2000:]
    return answer.json()["result"]
