# ruff: noqa: DJ008 -- nobody looks at these rows in an admin
"""What a shop has, as far as test_bulk_changes.py and its neighbours need it."""

from __future__ import annotations

from typing import Any

from django.db import models

from sse_app.changes import ChangesManager, publish_changes


class Customer(models.Model):
    """Publishes nothing."""

    name = models.CharField(max_length=40)


class Tag(models.Model):
    """Publishes nothing; the orders that have it do."""

    name = models.CharField(max_length=40)


@publish_changes(groups="shop", fields=["customer", "status", "total"], m2m=["tags"])
class Order(models.Model):
    """All calls on it publish, those of `customer.orders` too."""

    customer = models.ForeignKey(
        Customer, models.CASCADE, null=True, blank=True, related_name="orders"
    )
    number = models.IntegerField(unique=True, null=True)
    status = models.CharField(max_length=10, default="new")
    total = models.IntegerField(default=0)
    note = models.TextField(default="")
    tags = models.ManyToManyField(Tag, related_name="orders")

    objects = ChangesManager()


class Gift(Order):
    """A proxy."""

    class Meta:
        proxy = True


def line_data(line: Line) -> dict[str, Any]:
    """Follow two relations."""
    return {"pk": line.pk, "for": line.order.customer and line.order.customer.name}


@publish_changes(
    groups=lambda line: [f"order.{line.order.number}"],
    serializer=line_data,
    related=["order__customer"],
)
class Line(models.Model):
    """Its group and its data are read from other rows."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    text = models.CharField(max_length=40, default="")

    objects = ChangesManager()

    class Meta:
        base_manager_name = "objects"


@publish_changes(groups="products", fields=["title"], raw=True)
class Product(models.Model):
    """Books inherit from it. Fixtures are published."""

    title = models.CharField(max_length=40)

    objects = ChangesManager()


class Book(Product):
    """It has a table of its own."""

    pages = models.IntegerField(default=0)


@publish_changes(
    groups=lambda person: ["people" if person.club is None else person.club.name],
    m2m=["friends"],
    related=["club"],
)
class Person(models.Model):
    """Heard of in a club; friends are friends of each other."""

    club = models.ForeignKey(Customer, models.CASCADE, null=True, related_name="+")
    friends = models.ManyToManyField("self")


@publish_changes(groups="teams", m2m=["members"])
class Team(models.Model):
    """Its members are in a table with a model of its own, which is named before it is made."""

    members = models.ManyToManyField(Person, through="Membership", related_name="teams")


@publish_changes(groups="teams", fields=["team", "person", "role"])
class Membership(models.Model):
    """Between a team and a person; its rows publish too, whoever writes them."""

    team = models.ForeignKey(Team, models.CASCADE)
    person = models.ForeignKey(Person, models.CASCADE)
    role = models.CharField(max_length=10, default="player")

    objects = ChangesManager()


@publish_changes(
    groups=["parcels", "room.{room}"],
    fields=["room", "price", "weight", "double", "label", "scan", "extra", "photo", "sent_at"],
    deleted="deleted_at",
)
class Parcel(models.Model):
    """Its room may be any text, and its columns are of the kinds that JSON does not know."""

    room = models.CharField(max_length=200, default="a")
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    weight = models.FloatField(default=1)
    double = models.GeneratedField(
        expression=models.F("weight") * 2, output_field=models.FloatField(), db_persist=True
    )
    label = models.CharField(max_length=20, db_default="none")
    scan = models.BinaryField(default=b"")
    extra = models.JSONField(default=dict)
    photo = models.FileField(blank=True)
    sent_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(null=True)

    objects = ChangesManager()


@publish_changes(groups=lambda note: [f"by.{note.author.name}"] if note.public else [])
class Note(models.Model):
    """Published to the group of its author, while it is public."""

    author = models.ForeignKey(Customer, models.CASCADE, related_name="+")
    text = models.TextField(default="")
    public = models.BooleanField(default=True)

    objects = ChangesManager()
