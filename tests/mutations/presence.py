"""Who is in a group, whatever dies."""

from __future__ import annotations

from ..mutations import Mutation

MUTATIONS = (
    Mutation(
        "Who signs in by e-mail address would show the address to all readers of a group.",
        "sse_app/presence/naming.py",
        'if name and "@" not in name)',
        "if name)",
        ["presence/test_naming.py::test_the_default_name_is_never_an_e_mail_address"],
    ),
    Mutation(
        "A join with much data is sent to all readers of the group.",
        "sse_app/presence/naming.py",
        "    if len(text.encode()) > MOST_BYTES:\n",
        "    if False:\n",
        [
            "presence/test_naming.py"
            "::test_a_function_that_fails_is_logged_and_the_member_has_the_default"
        ],
    ),
    Mutation(
        "A process that stopped within its pass has locked the row that every pass writes.",
        "sse_app/presence/tracker.py",
        "with impatient(written(GroupMember).db, LOCK_SECONDS):",
        "with impatient(written(GroupMember).db, 3600):",
        [
            "presence/test_presence.py::test_a_pass_does_not_wait_for_a_process_that_stopped_in_its_own"
        ],
    ),
    Mutation(
        "A process that was killed says nothing of those it had.",
        "sse_app/presence/tracker.py",
        "        _remove_presences({(group, user): pk for group, user, pk in dead}, now, "
        "RECONNECT_SECONDS)\n",
        "",
        ["presence/test_presence_live.py::test_who_was_with_a_killed_process_is_gone_once"],
    ),
    Mutation(
        "Where nobody comes or goes, somebody must still see that another process died.",
        "sse_app/presence/tracker.py",
        "return self.dead or (",
        "return (",
        ["presence/test_presence_live.py::test_who_was_with_a_killed_process_is_gone_once"],
    ),
    Mutation(
        "A process that was killed keeps its row, which tells nothing but its age.",
        "sse_app/operations/processes.py",
        "if _is_alive(row, now)]",
        "]",
        [
            "operations/test_processes.py::test_a_process_that_was_killed_is_gone_when_its_age_says_so"
        ],
    ),
    Mutation(
        "Each override of INSTALLED_APPS would add the duties once more.",
        "sse_app/runtime/duties.py",
        "        self._due.setdefault(duty, 0.0)\n",
        "        self._due[lambda: duty()] = 0.0\n",
        ["operations/test_processes.py::test_the_duties_of_a_process_are_registered_once"],
    ),
    Mutation(
        "Two processes that look at the same time would both tell of a join or a leave.",
        "sse_app/presence/tracker.py",
        "        _lock_passes()\n",
        "",
        [
            "presence/test_presence_live.py::"
            "test_processes_that_write_at_the_same_time_tell_each_join_and_leave_once"
        ],
    ),
    Mutation(
        "A process that stops loses its streams, and their users come back by another.",
        "sse_app/presence/tracker.py",
        "    if Hub.draining:\n        # The streams end now. The rows stay for users who "
        "reconnect to another process.\n        return LOOK_SECONDS\n",
        "",
        ["presence/test_presence.py::test_a_process_that_stops_says_nothing_of_those_it_had"],
    ),
    Mutation(
        "A process that was taken for dead has lost its rows to another.",
        "sse_app/presence/tracker.py",
        "if _rows is None or found.own != len(_rows):",
        "if _rows is None:",
        [
            "presence/test_presence_live.py::test_a_process_that_was_taken_for_dead_says_again_who_is_there"
        ],
    ),
    Mutation(
        "A pass that raised may have been done all the same, when only its commit had no answer.",
        "sse_app/presence/tracker.py",
        "rows, _rows = _rows, None",
        "rows = _rows",
        [
            "presence/test_presence.py::test_a_pass_whose_commit_was_done_and_not_answered_is_known_to_the_next"
        ],
    ),
    Mutation(
        "A duty that is due each second asks the database each second.",
        "sse_app/broadcasts/sending.py",
        "    return TICK_SECONDS if rows else None\n",
        "    return TICK_SECONDS\n",
        [
            "operations/test_idle.py::"
            "test_an_idle_process_asks_the_database_less_than_once_in_five_seconds"
        ],
    ),
    Mutation(
        "A process that reports while nobody reads costs the database a statement each time.",
        "sse_app/operations/reporter.py",
        "        return QUIET_SECONDS if running_hubs() else ALONE_SECONDS\n",
        "        return REPORT_SECONDS\n",
        [
            "operations/test_idle.py::"
            "test_an_idle_process_asks_the_database_less_than_once_in_five_seconds"
        ],
    ),
    Mutation(
        "Others look for processes without a sign of life, so those with members must give one.",
        "sse_app/presence/tracker.py",
        "    return min(pause, signs_in) if _users else pause\n",
        "    return pause\n",
        [
            "presence/test_presence.py::"
            "test_where_nobody_comes_or_goes_one_statement_is_asked_and_nothing_is_written"
        ],
    ),
    Mutation(
        "A process is found dead when its sign of life is too old, not some time later.",
        "sse_app/presence/tracker.py",
        "            pauses.append((died_at - now).total_seconds())\n",
        "",
        [
            "presence/test_presence.py::"
            "test_the_next_look_is_when_a_process_may_be_dead_or_a_member_leaves"
        ],
    ),
    Mutation(
        "Streams without the row of their process are those of a dead one.",
        "sse_app/presence/tracker.py",
        "    if _users and not _sign():\n",
        "    if _users and not _sign() and False:\n",
        [
            "presence/test_presence.py::"
            "test_a_process_without_its_row_writes_the_row_before_its_streams"
        ],
    ),
    Mutation(
        "A broadcast that is scheduled in one process is due in all.",
        "sse_app/broadcasts/sending.py",
        '    post_save.connect(_saved, sender=Broadcast, dispatch_uid="sse_app")\n',
        "    pass\n",
        ["operations/test_idle.py::test_a_change_in_one_process_wakes_the_duties_of_the_others"],
    ),
    Mutation(
        "A process of which a dashboard learns while it is quiet must answer immediately.",
        "sse_app/access/control_group.py",
        "        elif event.name == WAKE_EVENT:\n            DUTIES.wake()\n",
        "",
        ["operations/test_idle.py::test_a_change_in_one_process_wakes_the_duties_of_the_others"],
    ),
    Mutation(
        "A user who has another tab, or comes back at once, has not left.",
        "sse_app/presence/tracker.py",
        "        written(GroupMember).filter(pk__in=pks).update(leaves_at=None)\n",
        "        pass\n",
        ["presence/test_presence_live.py::test_who_comes_back_in_time_has_not_left"],
    ),
)
