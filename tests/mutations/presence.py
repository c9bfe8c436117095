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
        "return dead.exists() or written(GroupMember)",
        "return written(GroupMember)",
        ["presence/test_presence_live.py::test_who_was_with_a_killed_process_is_gone_once"],
    ),
    Mutation(
        "A process that was killed keeps its row, which tells nothing but its age.",
        "sse_app/operations/processes.py",
        "rows = all_rows().filter(seen_at__gte=since)\n",
        "rows = all_rows()\n",
        [
            "operations/test_processes.py::test_a_process_that_was_killed_is_gone_when_its_age_says_so"
        ],
    ),
    Mutation(
        "Each override of INSTALLED_APPS would add the duties once more.",
        "sse_app/apps.py",
        "            if duty not in processes.duties:",
        "            if True:",
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
        "reconnect to another process.\n        return\n",
        "",
        ["presence/test_presence.py::test_a_process_that_stops_says_nothing_of_those_it_had"],
    ),
    Mutation(
        "A process that was taken for dead has lost its rows to another.",
        "sse_app/presence/tracker.py",
        "if _rows is None or _own().count() != len(_rows):",
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
        "A user who has another tab, or comes back at once, has not left.",
        "sse_app/presence/tracker.py",
        "        written(GroupMember).filter(pk__in=pks).update(leaves_at=None)\n",
        "        pass\n",
        ["presence/test_presence_live.py::test_who_comes_back_in_time_has_not_left"],
    ),
)
