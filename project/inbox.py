"""Handlers of the events that the demo's pages send: chat messages, commands and typing."""

from django import forms
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import validate_slug
from django.db import transaction

from project.models import ChatMessage
from sse_app import on, presence, publish, reply
from sse_app.publishing.inbox import Message

ROOM_LENGTH = 40
_text = forms.CharField(max_length=500)


def room_of(group: str) -> str:
    """Return the chat room behind a group's name, or raise ValidationError."""
    prefix, _, room = group.partition(".")
    if prefix != "chat" or len(room) > ROOM_LENGTH:
        raise ValidationError(f"{group!r} is not a chat room: expected 'chat.<room>'.")
    validate_slug(room)
    return room


def text_of(data: object) -> str:
    """Return the message's text, 1 to 500 characters, or raise ValidationError."""
    text = data.get("text") if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise ValidationError('Expected {"text": "..."}.')
    try:
        # JSON can have half a surrogate pair, which neither a database nor a stream can encode.
        text.encode()
    except UnicodeEncodeError as error:
        raise ValidationError("The text is not valid Unicode.") from error
    return str(_text.clean(text))


@on("chat.message")
def chat_message(message: Message) -> dict[str, int] | None:
    """Save a signed-in user's message and publish it to the room, in one transaction.

    A message that is a command is only answered, by an event to that user's stream.
    """
    if not message.user.is_authenticated:
        raise PermissionDenied("Sign in to speak.")
    room, text = room_of(message.group), text_of(message.data)
    if text.startswith("/"):
        reply(message, "chat.note", {"text": _obey(text, message.group)})
        return None
    with transaction.atomic():
        row = ChatMessage.objects.create(room=room, author=message.user, text=text)
        publish(message.group, message.event, row.as_event())
    return {"id": row.pk}


@on("chat.typing")
def chat_typing(message: Message) -> None:
    """Publish that the user is typing. The event is useless later, so it is not durable."""
    if not message.user.is_authenticated:
        raise PermissionDenied("Sign in to speak.")
    room_of(message.group)
    who = {"user": str(message.user.pk), "name": message.user.get_username()}
    publish(message.group, message.event, who, durable=False, key=who["user"])


def _obey(command: str, group: str) -> str:
    """Return the answer to a command such as "/who"."""
    if command == "/who":
        names = [member.name for member in presence.members(group)]
        return f"Here: {', '.join(names) or 'no signed-in users'}."
    if command == "/help":
        return "/who shows who is here. Only you see the answer."
    raise ValidationError(f"There is no command {command!r}: try /who or /help.")
