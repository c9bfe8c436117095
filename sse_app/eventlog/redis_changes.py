"""The streams of changes in Redis: which heads changed last, in the order of the changes.

The script that changes a head adds it to a stream, see `redis_scripts`. A reader asks for the last
entry that it has seen and for all after it. If the answer lacks that entry, the stream was trimmed
or the log went back, and the reader compares all heads.

A Redis Cluster has several streams with different slots: the script can add an entry without
another round trip if the stream is on the node of the group. Few streams are enough for nearly all
groups, since a node has a range of slots; the others take a command of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import Any, Final

from ..protocol.cursors import Position
from .contract import Changes, most_changes
from .redis_scripts import KEPT_CHANGES

#: The streams of a cluster, and the slots.
STREAMS: Final = 16
SLOTS: Final = 16384


class RedisChanges:
    """The streams of changes of the log whose keys have `prefix`. Makes commands and reads answers.

    The token `since` is a tuple of the last ids that were seen, one for each stream.
    """

    def __init__(self, prefix: str, cluster: bool) -> None:
        name = f"{prefix}:changes"
        self._keys = _cluster_keys(name) if cluster else [name]

    def key(self, group: str) -> str:
        """Return the key of the stream to which the changes of `group` are added."""
        if len(self._keys) == 1:
            return self._keys[0]
        return self._keys[_slot(group) * STREAMS // SLOTS]

    def note(self, group: str, head: str | bytes, answer: Sequence[Any]) -> list[Any]:
        """Return the command that adds a change that the script could not add to its stream.

        `answer`, of the script, has the epoch, the offset and the mark of the last event.
        """
        epoch, offset, mark, _ = answer
        value = b" ".join([epoch, offset, mark])
        return ["XADD", self.key(group), "MAXLEN", "~", KEPT_CHANGES, "*", head, value]

    def notes(self, calls: Mapping[str, Sequence[Any]], answers: Sequence[Any]) -> list[list[Any]]:
        """Return such commands for the `answers` to the scripts `APPEND`; none off a cluster."""
        return [
            self.note(group, call[2], [*answer[:2], call[-2].encode(), 0])
            for (group, call), answer in zip(calls.items(), answers, strict=True)
            if len(self._keys) > 1 and not isinstance(answer, Exception) and not answer[3]
        ]

    def reads(self, since: object, groups: Collection[str]) -> list[list[Any]]:
        """Return the commands whose answers `changes()` takes."""
        if not isinstance(since, tuple):
            return [["XREVRANGE", key, "+", "-", "COUNT", 1] for key in self._keys]
        # The last entry is the one that was seen.
        most = most_changes(groups) + 1
        return [
            ["XREVRANGE", key, "+", last or "-", "COUNT", most]
            for key, last in zip(self._keys, since, strict=True)
        ]

    def changes(
        self,
        since: object,
        answers: Sequence[Sequence[Any]],
        groups: Collection[str],
        also: Mapping[str, Position],
    ) -> Changes:
        """See `EventLog.changes()`; `answers` are those to `reads()`, and `also` are more heads."""
        newest = tuple(entries[0][0] if entries else b"" for entries in answers)
        if not isinstance(since, tuple):
            return Changes(None, newest)
        heads: dict[str, Position] = {}
        most = most_changes(groups)
        for last, entries in zip(since, answers, strict=True):
            if last and (not entries or entries[-1][0] != last):
                return Changes(None, newest)
            new = entries[:-1] if last else entries
            if len(new) > most:
                return Changes(None, newest)
            for _, fields in new:
                ((head, value),) = fields.items()
                group = group_of(head)
                if group in groups and group not in heads:  # The newest entry comes first.
                    epoch, offset, mark = value.decode().split(" ")
                    heads[group] = Position(epoch, int(offset), mark)
        return Changes(heads | dict(also), newest)


def group_of(head: bytes) -> str:
    """Return the group of a head's key: the text in braces, which names of groups can't have."""
    return head.decode().partition("{")[2].partition("}")[0]


def _cluster_keys(name: str) -> list[str]:
    """Return keys whose slots are evenly spread; the same in every process."""
    keys: dict[int, str] = {}
    for number in count():
        keys.setdefault(_slot(str(number)) * STREAMS // SLOTS, f"{name}:{{{number}}}")
        if len(keys) == STREAMS:
            break
    return [keys[part] for part in range(STREAMS)]


def _slot(tag: str) -> int:
    from redis.crc import key_slot

    return int(key_slot(tag.encode()))
