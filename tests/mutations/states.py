"""First states, and what is kept for ever."""

from __future__ import annotations

from . import Mutation

MUTATIONS = (
    Mutation(
        "What is written while a state is read must come after its place.",
        "sse_app/snapshots.py",
        "            state = State(group, place, await source.read(group))\n",
        "            block = await source.read(group)\n"
        "            state = State(group, self._served(group) or START, block)\n",
        ["test_snapshots.py::test_a_thousand_who_ask_at_once_and_in_the_next_moment_read_it_once"],
    ),
    Mutation(
        "A kept state of a log that was lost says nothing of what comes.",
        "sse_app/snapshots.py",
        "if group in self._kept and self._goes_on(self._kept[group][0]):",
        "if group in self._kept:",
        ["test_snapshots.py::test_the_state_of_an_empty_group_is_not_kept_once_it_has_a_log"],
    ),
    Mutation(
        "A state from before a reset would be followed by another reset.",
        "sse_app/snapshots.py",
        "kept.offset <= position.offset",
        "kept.offset == position.offset",
        ["test_snapshots.py::test_a_reset_reader_gets_no_state_from_before_its_reset"],
    ),
    Mutation(
        "States of many groups must not fill the memory.",
        "sse_app/snapshots.py",
        "        while self._bytes > KEPT_BYTES:\n            self._drop(next(iter(self._kept)))\n",
        "",
        ["test_snapshots.py::test_what_is_kept_has_a_bound_and_the_oldest_go_first"],
    ),
    Mutation(
        "A thread can't hand StopIteration to a loop: who awaits it waits for ever.",
        "sse_app/snapshots.py",
        "        except StopIteration as error:\n",
        "        except ZeroDivisionError as error:\n",
        ["test_snapshots.py::test_what_can_not_be_sent_is_a_failure"],
    ),
    Mutation(
        "A function that is cancelled must not look like a stream that was.",
        "sse_app/snapshots.py",
        "        if task.cancelled():\n            raise",
        "        if False:\n            raise",
        ["test_snapshots.py::test_what_can_not_be_sent_is_a_failure"],
    ),
    Mutation(
        "A state that fails concerns nobody who has lost its group.",
        "sse_app/subscriptions.py",
        "                if group not in self._first:\n                    return",
        "                if False:\n                    return",
        ["test_snapshots.py::test_a_state_that_fails_ends_nobody_who_lost_its_group_meanwhile"],
    ),
    Mutation(
        "Where RETENTION_SECONDS is longer than Unix time, a lost place would be taken for good.",
        "sse_app/replay.py",
        "seen == LOST.offset or ",
        "",
        ["test_snapshots.py::test_a_place_that_is_lost_is_refused_however_long_events_are_kept"],
    ),
    Mutation(
        "As many as are kept at all are trimmed before a new stream has read them.",
        "sse_app/retained.py",
        "settings().RETENTION_EVENTS // 2",
        "settings().RETENTION_EVENTS",
        ["test_settings.py::test_a_wrong_value_is_named"],
    ),
    Mutation(
        "daphne runs no system checks.",
        "sse_app/asgi.py",
        "    retained_patterns()\n",
        "",
        ["test_asgi.py::test_what_can_not_be_retained_is_said_when_the_server_starts"],
    ),
    Mutation(
        "A key without an expiry stays for ever once its pattern is gone.",
        "sse_app/eventlog/redis_scripts.py",
        "if least == 0 and redis.call('PTTL', KEYS[1]) == -1 then",
        "if false then",
        ["test_redis_log.py::test_a_retained_group_never_expires_until_it_is_retained_no_longer"],
    ),
    Mutation(
        "A URL that was escaped for HTML lacks what its `&amp;` was for.",
        "sse_app/admission.py",
        "        if escaped is not None:\n",
        "        if False:\n",
        ["test_stream.py::test_bad_requests_get_a_clear_answer"],
    ),
)
