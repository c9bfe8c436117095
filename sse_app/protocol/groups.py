"""Group names: their rule, patterns for them, and their names on the channel layer.

Where a project has tenants, the name of a group inside the app begins with the tenant's namespace:
`_red.orders`. This full name is in the log, on the layer and in the hash of a cursor. The project
and its pages use the group's own name, `orders`, which never begins with `_`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol, runtime_checkable


@runtime_checkable
class Instance(Protocol):
    """A model instance. Not `django.db.models.Model`: this module knows no database."""

    @property
    def pk(self) -> Any:
        """The primary key."""


#: Wherever the project names a group, a saved model instance may stand for the group's name.
Group = str | Instance

# Needed because the check of Channels permits "a\n" and non-ASCII digits.
_NAME: Final = re.compile(r"(?!sse\.)[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\Z", re.ASCII)
_PATTERN: Final = re.compile(r"[A-Za-z0-9_.*-]{1,80}\Z", re.ASCII)

#: 128 bits, so that nobody finds two texts with one name.
DIGEST_LETTERS: Final = 32
#: The end of a name that `group_name()` has made. A text with such an end is encoded too.
_ENCODED: Final = re.compile(rf"--[0-9a-f]{{{DIGEST_LETTERS}}}\Z", re.ASCII)
_PREFIX: Final = re.compile(r"_[A-Za-z0-9_-]{1,30}\.", re.ASCII)
#: The most characters of a full name.
_MOST: Final = 80

RESERVED: Final = "sse."
#: The beginning of group names on the channel layer.
GROUP_PREFIX: Final = "sse_app."
#: The group of revocations and replies, between the processes of a site. No user may name it.
CONTROL_GROUP: Final = "sse.control"


def validate_group(name: object) -> str:
    """Return `name` if it is a valid group name, else raise `ValueError` with the rule.

    A name has 1 to 80 ASCII letters, digits, `_`, `.` and `-`, and begins with a letter or digit,
    for example `order.42`. Names that begin with `sse.` are reserved for the app. For a saved model
    instance, return the name of its group, for example `shop.order.42`.
    """
    if isinstance(name, str):
        if _NAME.match(name):
            return name
        if name.startswith(RESERVED):
            raise ValueError(
                f"Invalid group name {name!r}: names beginning with {RESERVED!r} are reserved."
            )
    elif hasattr(name, "_meta") and not isinstance(name, type):
        return _name_of(name)
    raise ValueError(
        f"Invalid group name {name!r}: 1 to 80 ASCII letters, digits, '_', '.' and '-', "
        "beginning with a letter or digit, for example 'order.42'; or a saved model instance."
    )


def _name_of(instance: Any) -> str:
    """Return the name of the instance's group: its app, model and primary key.

    A proxy has the name of its concrete model, because both are the same row. A model that inherits
    the table of another model has rows of its own, and so names of its own.
    """
    if instance.pk is None or instance._state.adding:
        raise ValueError(
            f"The unsaved {type(instance).__name__} {instance.pk!r} can't name a group: save the "
            "instance first, or give the name of the group as text."
        )
    model: Any = instance._meta.concrete_model
    # As read from the database: an instance that was saved with the key "5" has the name of 5.
    try:
        key = model._meta.pk.to_python(instance.pk)
    except Exception as error:  # A field of the project may raise anything.
        raise ValueError(f"{instance.pk!r} is not a primary key of {model.__name__}.") from error
    return group_name(f"{model._meta.label.lower()}.{key}")


class EncodedName(str):
    """A name that `group_name()` has made, and does not encode again."""


def group_name(text: Group) -> str:
    """Return `text` if it is a valid group name, else a valid name for it: `"room.my room"`.

    Different texts have different names. The name keeps the valid beginning of the text, so the
    same patterns permit it, and ends with a digest. For a saved model instance, return the name of
    its group. Raises `ValueError` for anything else.
    """
    if isinstance(text, EncodedName) or not isinstance(text, str):
        return validate_group(text)
    if _NAME.match(text) and not _ENCODED.search(text):
        return text
    begins = re.match(_NAME.pattern.removesuffix(r"\Z"), text, re.ASCII)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST_LETTERS]
    return EncodedName(f"{begins[0][: 78 - DIGEST_LETTERS] if begins else 'x'}--{digest}")


def user_group(user: Any) -> str:
    """Return the name of the group that `user`, and no other user, may always listen to.

    `user`: a user or a primary key. The name is `user.5` for the primary key 5. Raises `ValueError`
    for a user without a primary key, such as an `AnonymousUser`.
    """
    key = getattr(user, "pk", user)
    if key is None or isinstance(key, bool) or not str(key):
        raise ValueError(
            f"user_group({user!r}): this is not a user with a primary key. Give a saved user, or "
            "the primary key."
        )
    return group_name(f"user.{key}")


def validate_full(name: object) -> str:
    """Return `name` if it is a group's full name, else raise `ValueError` with the rule."""
    if isinstance(name, str) and (prefix := _PREFIX.match(name)) and len(name) <= _MOST:
        validate_group(name[prefix.end() :])
        return name
    return validate_group(name)


def full_name(name: object, namespace: str) -> str:
    """Return the full name of the group `name` in `namespace`, which is "" without tenants.

    A full name of this namespace is returned as it is. Raises `ValueError` for an invalid name, for
    the full name of another namespace, and for a full name of more than 80 characters.
    """
    if not namespace:
        return validate_group(name)
    prefix = scoped("", namespace)
    own = name.removeprefix(prefix) if isinstance(name, str) else name
    full = prefix + validate_group(own)
    if len(full) > _MOST:
        raise ValueError(
            f"Invalid group name {own!r}: with the namespace {namespace!r} it has {len(full)} "
            f"characters, more than {_MOST}."
        )
    return full


def scoped(key: str, namespace: str) -> str:
    """Return `key` with the namespace before it: `_red.5`, or `5` without a namespace."""
    return f"_{namespace}.{key}" if namespace else key


def own_name(group: str) -> str:
    """Return the name of a group without its namespace."""
    return group.partition(".")[2] if group.startswith("_") else group


def namespace_of(group: str) -> str:
    """Return the namespace of a full name, "" without one."""
    return group[1:].partition(".")[0] if group.startswith("_") else ""


def layer_group(name: str, tag: str) -> str:
    """Return a group's name on the channel layer, for example `sse_app.1f0c9a2b.orders`.

    `tag` is the site tag, see `conf.site_tag()`. Sites with different tags may share a Redis,
    because no message of one site reaches the other. An in-memory layer has `shared_group()`.
    """
    return f"{GROUP_PREFIX}{tag}.{name}"


def shared_group(tag: str) -> str:
    """Return the name of the one layer group that has all groups on an in-memory layer.

    That layer visits all of its groups for each message that it sends or receives.
    """
    return GROUP_PREFIX + tag


def validate_pattern(pattern: object) -> str:
    """Return `pattern` if it is a group pattern such as `chat.*`, else raise `ValueError`."""
    if not isinstance(pattern, str) or not _PATTERN.match(pattern):
        raise ValueError(
            f"Invalid group pattern {pattern!r}: a group name in which '*' stands for any "
            "characters, for example 'chat.*'."
        )
    return pattern


def best_match(name: str, patterns: Iterable[str]) -> str | None:
    """Return the pattern that matches `name` best, whatever their order; None if none matches.

    The best pattern is `name` itself, else the pattern with the longest beginning before its first
    `*`, and of several such patterns the one with the most characters other than `*`.
    """
    found = [pattern for pattern in patterns if matches(name, [pattern])]
    return max(found, key=lambda pattern: _fit(name, pattern), default=None)


def _fit(name: str, pattern: str) -> tuple[bool, int, int, str]:
    literal = pattern.replace("*", "")
    return pattern == own_name(name), len(pattern.partition("*")[0]), len(literal), pattern


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the group `name` matches one of `patterns`, in which `*` stands for any characters.

    The patterns are those of own names, whatever the namespace of the group is.
    """
    return fits(own_name(name), patterns)


def fits(text: str, patterns: Iterable[str]) -> bool:
    """Whether `text` matches one of `patterns`, in which `*` stands for any characters."""
    return any(fnmatchcase(text, pattern) for pattern in patterns)
