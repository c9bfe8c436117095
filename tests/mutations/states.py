"""First states, and what is kept for ever."""

from __future__ import annotations

from ..mutations import Mutation

MUTATIONS = (
    Mutation(
        "A lock that a thread of the parent held is never released in a forked child.",
        "sse_app/delivery/subscriptions.py",
        "at_fork(_reset_after_fork)\n",
        "",
        ["runtime/test_forks.py::test_no_lock_of_the_parent_is_held_in_a_forked_child"],
    ),
    Mutation(
        "Two threads that close a stream pair the reason of one with the groups of the other.",
        "sse_app/delivery/subscriptions.py",
        "        with _lock:\n            if self.close_reason is None:",
        "        if True:\n            if self.close_reason is None:",
        [
            "access/test_readers.py::"
            "test_streams_muted_by_two_threads_keep_a_reason_with_its_own_groups"
        ],
    ),
    Mutation(
        "What is written while a state is read must come after its place.",
        "sse_app/delivery/snapshots.py",
        "            state = State(group, position, await source.read(group))\n",
        "            block = await source.read(group)\n"
        "            state = State(group, self._served(group) or START, block)\n",
        [
            "delivery/test_snapshots.py::test_a_thousand_who_ask_at_once_and_in_the_next_moment_read_it_once"
        ],
    ),
    Mutation(
        "A kept state of a log that was lost says nothing of what comes.",
        "sse_app/delivery/snapshots.py",
        "if group in self._kept and self._is_current(self._kept[group][0]):",
        "if group in self._kept:",
        [
            "delivery/test_snapshots.py::test_the_state_of_an_empty_group_is_not_kept_once_it_has_a_log"
        ],
    ),
    Mutation(
        "A state from before a reset would be followed by another reset.",
        "sse_app/delivery/snapshots.py",
        "kept.offset <= position.offset",
        "kept.offset == position.offset",
        ["delivery/test_snapshots.py::test_a_reset_reader_gets_no_state_from_before_its_reset"],
    ),
    Mutation(
        "States of many groups must not fill the memory.",
        "sse_app/delivery/snapshots.py",
        "        while self._bytes > KEPT_BYTES:\n            self._drop(next(iter(self._kept)))\n",
        "",
        ["delivery/test_snapshots.py::test_what_is_kept_has_a_bound_and_the_oldest_go_first"],
    ),
    Mutation(
        "Python waits for the threads of its executors when the process ends.",
        "sse_app/runtime/threads.py",
        "name=NAME, daemon=True",
        "name=NAME, daemon=False",
        ["runtime/test_threads.py::test_a_program_ends_while_a_function_hangs"],
    ),
    Mutation(
        "Groups whose function hangs must not take a thread for each client that comes.",
        "sse_app/runtime/threads.py",
        "        if call.key is not None and call.key in hanging:\n",
        "        if False:\n",
        ["runtime/test_threads.py::test_what_hangs_is_waited_for_by_nobody_who_comes_later"],
    ),
    Mutation(
        "Where all threads hang, the next client must not wait for one of them.",
        "sse_app/runtime/threads.py",
        "        if len(hanging) >= self._most:\n",
        "        if False:\n",
        ["runtime/test_threads.py::test_what_hangs_is_waited_for_by_nobody_who_comes_later"],
    ),
    Mutation(
        "A new thread and a new connection for each call cost a connect most of its time.",
        "sse_app/runtime/threads.py",
        "                self._idle.pop().put(call)\n                return call.future\n",
        "                pass\n",
        [
            "runtime/test_threads.py::test_a_thread_is_used_again_and_keeps_its_connections_until_it_ends"
        ],
    ),
    Mutation(
        "A call that is given to a thread at its end would wait for ever.",
        "sse_app/runtime/threads.py",
        "        return calls.get()  # Given at the last moment.\n",
        "        return None\n",
        [
            "runtime/test_threads.py::test_a_call_at_the_moment_when_its_thread_would_end_gets_the_thread"
        ],
    ),
    Mutation(
        "A function that hangs must not hold the states of other functions.",
        "sse_app/delivery/snapshots.py",
        "field(default_factory=Threads, compare=False)",
        "field(default=Threads(), compare=False)",
        [
            "delivery/test_snapshots.py::test_a_function_that_hangs_holds_neither_others_nor_the_end_of_the_process"
        ],
    ),
    Mutation(
        "A reader that comes late must not wait again for a function that hangs.",
        "sse_app/delivery/snapshots.py",
        "timeout=max(0.0, until - now)",
        "timeout=most",
        [
            "delivery/test_snapshots.py::test_a_reader_that_comes_late_waits_no_longer_than_the_first"
        ],
    ),
    Mutation(
        "A stream that is disconnected, or whose client leaves, must not wait for a state.",
        "sse_app/delivery/subscriptions.py",
        "        self._notify.set()\n        self._interrupt()\n",
        "        self._notify.set()\n",
        [
            "delivery/test_snapshots.py::test_who_is_disconnected_or_leaves_does_not_wait_for_the_state"
        ],
    ),
    Mutation(
        "A group that is taken must not hold the others until its state is read.",
        "sse_app/delivery/subscriptions.py",
        "        self._latest = without_group(self._latest, group)\n        self._interrupt()\n",
        "        self._latest = without_group(self._latest, group)\n",
        [
            "delivery/test_snapshots.py::test_a_group_that_is_taken_while_its_state_is_read_is_not_shown"
        ],
    ),
    Mutation(
        "A client that breaks off before its first past event would come back to any log.",
        "sse_app/delivery/replay.py",
        "Beginning(Position(head.epoch, offset, events[0].previous), events=events)",
        "Beginning(Position(head.epoch, offset), events=events)",
        [
            "delivery/test_stream.py::test_a_cursor_that_can_not_be_continued_is_reset_with_the_reason"
        ],
    ),
    Mutation(
        "Past events may be trimmed between finding their place and showing them.",
        "sse_app/delivery/replay.py",
        "            events = await feed.read(group, Position(head.epoch, offset))\n",
        "            return Beginning(Position(head.epoch, offset))\n",
        [
            "delivery/test_snapshots.py::test_a_past_event_that_is_trimmed_before_it_is_shown_is_shown_all_the_same"
        ],
    ),
    Mutation(
        "Past events may be trimmed between finding their place and reading them.",
        "sse_app/delivery/replay.py",
        "TRIES: Final = 3",
        "TRIES: Final = 1",
        [
            "delivery/test_snapshots.py::test_a_past_event_that_is_trimmed_before_it_is_read_makes_way_for_the_next"
        ],
    ),
    Mutation(
        "A group's own name is a better match than a pattern of the same length, in any order.",
        "sse_app/protocol/groups.py",
        "    return pattern == own_name(name), len(pattern",
        "    return False, len(pattern",
        ["delivery/test_snapshots.py::test_the_best_pattern_gives_the_state_whatever_the_order"],
    ),
    Mutation(
        "Where RETENTION_SECONDS is longer than Unix time, a lost place would be taken for good.",
        "sse_app/delivery/replay.py",
        "seen == LOST.offset or ",
        "",
        [
            "delivery/test_snapshots.py::test_a_place_that_is_lost_is_refused_however_long_events_are_kept"
        ],
    ),
    Mutation(
        "As many as are kept at all are trimmed before a new stream has read them.",
        "sse_app/eventlog/retention.py",
        "settings().RETENTION_EVENTS // 2",
        "settings().RETENTION_EVENTS",
        ["doors/test_settings.py::test_a_wrong_value_is_named"],
    ),
    Mutation(
        "daphne runs no system checks.",
        "sse_app/asgi.py",
        "    retained_patterns()\n",
        "",
        ["doors/test_asgi.py::test_what_can_not_be_retained_is_said_when_the_server_starts"],
    ),
    Mutation(
        "A key without an expiry stays for ever once its pattern is gone.",
        "sse_app/eventlog/redis_scripts.py",
        "elseif redis.call('PTTL', KEYS[1]) == -1 then",
        "elseif false then",
        [
            "eventlog/test_redis_log.py::test_a_retained_group_never_expires_until_it_is_retained_no_longer"
        ],
    ),
    Mutation(
        "A URL that was escaped for HTML lacks what its `&amp;` was for.",
        "sse_app/access/admission.py",
        "        if escaped is not None:\n",
        "        if False:\n",
        ["delivery/test_stream.py::test_bad_requests_get_a_clear_answer"],
    ),
)
