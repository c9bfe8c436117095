"""What databases and Redis do, and Django's signals."""

from __future__ import annotations

from ..mutations import Mutation

MUTATIONS = (
    Mutation(
        "A key is given before its row is committed, so a lower one may appear after a higher one.",
        "sse_app/eventlog/database_numbering.py",
        """'WHERE "offset" IS NULL AND "group" {among} ORDER BY "id"'""",
        """'WHERE "offset" IS NULL AND 1 = 0 AND "group" {among} ORDER BY "id"'""",
        ["eventlog/test_eventlog.py::test_a_staged_event_is_never_overtaken_by_a_later_append"],
    ),
    Mutation(
        "A pass that reads no staged events would give a new event the offset before theirs.",
        "sse_app/eventlog/database_rows.py",
        "                if waits:\n",
        "                if False:\n",
        ["eventlog/test_eventlog.py::test_a_staged_event_is_never_overtaken_by_a_later_append"],
    ),
    Mutation(
        "The children of a fork would draw the marks that their parent draws.",
        "sse_app/eventlog/contract.py",
        "at_fork(_random.seed)\n",
        "",
        [
            "eventlog/test_marks.py::"
            "test_forked_children_draw_other_marks_than_each_other_and_their_parent"
        ],
    ),
    Mutation(
        "A project that seeds the numbers of the module `random` would have the same marks again.",
        "sse_app/eventlog/contract.py",
        "from random import Random\n",
        "import random\n\nRandom = lambda: random  # noqa: E731\n",
        [
            "eventlog/test_marks.py::"
            "test_a_project_that_seeds_its_random_numbers_does_not_repeat_marks"
        ],
    ),
    Mutation(
        "PostgreSQL appends in one statement, which has to look whether an event waits.",
        "sse_app/eventlog/database_postgresql.py",
        'SELECT 1 FROM {{events}} w WHERE w."offset" IS NULL AND',
        'SELECT 1 FROM {{events}} w WHERE w."offset" = -1 AND',
        ["eventlog/test_eventlog.py::test_a_staged_event_is_never_overtaken_by_a_later_append"],
    ),
    Mutation(
        "Each thread that publishes would have a commit of its own, and wait for the others.",
        "sse_app/publishing/group_commit.py",
        "                if one.size <= room and _is_apart(one, others):\n",
        "                if False:\n",
        [
            "publishing/test_group_commit.py::test_all_who_publish_during_an_append_share_the_next_one"
        ],
    ),
    Mutation(
        "A caller that is interrupted while it writes for others would leave them waiting.",
        "sse_app/publishing/group_commit.py",
        "            one.done = True\n            one.wake()\n",
        "            one.done = True\n",
        ["publishing/test_group_commit.py::test_an_interrupted_thread_leaves_no_other_waiting"],
    ),
    Mutation(
        "The events of an interrupted append may be stored, so another try could store them twice.",
        "sse_app/publishing/group_commit.py",
        "                one.error = _INTERRUPTED\n",
        "                one.alone = True\n",
        ["publishing/test_group_commit.py::test_an_interrupted_thread_leaves_no_other_waiting"],
    ),
    Mutation(
        "After a lost connection nobody knows whether the commit was done.",
        "sse_app/eventlog/database_locks.py",
        "        return not isinstance(error, OperationalError | InterfaceError)\n",
        "        return True\n",
        ["publishing/test_group_commit.py::test_a_broken_connection_is_not_tried_again"],
    ),
    Mutation(
        "One event that the database refuses would fail the events of all other publishers.",
        "sse_app/eventlog/database_locks.py",
        'return not state.startswith(("08", "57P"))',
        "return False",
        ["publishing/test_group_commit.py::test_an_event_that_the_database_refuses_fails_alone"],
    ),
    Mutation(
        "A locked head would delay the events of all who publish at that moment.",
        "sse_app/eventlog/database.py",
        "            seconds = KNOWN_SECONDS  # A locked",
        "            seconds = APPEND_SECONDS  # A locked",
        [
            "publishing/test_group_commit.py::test_a_locked_group_in_an_append_of_many_delays_its_own_publisher_only"
        ],
    ),
    Mutation(
        "A group whose head is locked would fail the shared append again and again.",
        "sse_app/eventlog/database.py",
        "                self._locked.set_apart(self._tables.locked(groups))\n",
        "                pass\n",
        [
            "publishing/test_group_commit.py::test_a_locked_group_in_an_append_of_many_delays_its_own_publisher_only"
        ],
    ),
    Mutation(
        "A caller that waits for a locked head would lead for as long as it waits.",
        "sse_app/publishing/group_commit.py",
        "            if not caller.taken and not caller.leads:\n",
        "            if False:\n",
        [
            "publishing/test_group_commit.py::test_a_publisher_that_waits_for_a_locked_group_holds_the_lead_for_a_moment_only"
        ],
    ),
    Mutation(
        "Publishers to one group would wait for the appends to all others.",
        "sse_app/eventlog/database.py",
        'return APPENDS_AT_ONCE if self._connection.vendor == "postgresql" else 1',
        "return 1",
        [
            "publishing/test_group_commit.py::test_a_database_with_one_writer_has_one_append_at_a_time"
        ],
    ),
    Mutation(
        "Two appends to one group would wait for each other's lock, and their events overtake.",
        "sse_app/publishing/group_commit.py",
        "log.appends_at_once() and _is_apart(caller, self._leaders)",
        "log.appends_at_once()",
        ["publishing/test_group_commit.py::test_a_batch_has_no_group_of_another_append"],
    ),
    Mutation(
        "A batch with a group of another append would wait for it.",
        "sse_app/publishing/group_commit.py",
        "if one.size <= room and _is_apart(one, others):",
        "if one.size <= room:",
        ["publishing/test_group_commit.py::test_a_batch_has_no_group_of_another_append"],
    ),
    Mutation(
        "Each thread would append alone, as many at a time as there are groups.",
        "sse_app/publishing/group_commit.py",
        "len(self._leaders) < log.appends_at_once() and ",
        "",
        ["publishing/test_group_commit.py::test_a_batch_has_no_group_of_another_append"],
    ),
    Mutation(
        "A connection that appends often would have PostgreSQL plan each append.",
        "sse_app/eventlog/database_postgresql.py",
        "    if appends >= PREPARED_AFTER:\n",
        "    if False:\n",
        ["eventlog/test_prepared.py::test_the_statement_of_a_connection_is_planned_once"],
    ),
    Mutation(
        "A prepared statement that is not there would end a transaction of the caller.",
        "sse_app/eventlog/database_postgresql.py",
        "appends = _count(tables) if prepared else 0",
        "appends = _count(tables)",
        [
            "eventlog/test_prepared.py::"
            "test_in_a_transaction_of_the_caller_no_statement_can_fail_for_that"
        ],
    ),
    Mutation(
        "Behind a pooler, the prepared statement of an append may be another connection's.",
        "sse_app/eventlog/database_postgresql.py",
        '_NOT_PREPARED: Final = ("26000", "42P05", "0A000")',
        "_NOT_PREPARED: Final = ()",
        [
            "eventlog/test_prepared.py::test_a_statement_that_is_not_there_is_never_prepared_again",
            "eventlog/test_prepared.py::"
            "test_a_statement_that_another_client_of_the_pooler_has_prepared_is_no_error",
        ],
    ),
    Mutation(
        "Django's setting for a pooler says that a connection keeps nothing.",
        "sse_app/eventlog/database_postgresql.py",
        "    if pooled or connection",
        "    if connection",
        ["eventlog/test_prepared.py::test_with_a_pooler_that_django_knows_of_nothing_is_prepared"],
    ),
    Mutation(
        "A thread that can't connect would fail the events of threads that have a connection.",
        "sse_app/eventlog/database.py",
        "            return None  # Other threads may",
        "            raise  # Other threads may",
        [
            "publishing/test_group_commit.py::test_a_thread_without_a_connection_delays_no_thread_that_has_one"
        ],
    ),
    Mutation(
        "A thread of an event loop that waited for other threads would stop all streams.",
        "sse_app/publishing/group_commit.py",
        "        and asyncio._get_running_loop() is None\n",
        "",
        ["publishing/test_group_commit.py::test_the_thread_of_a_loop_waits_for_no_other_thread"],
    ),
    Mutation(
        "A forked child would wait for a thread of its parent.",
        "sse_app/publishing/group_commit.py",
        "at_fork(_of_alias.clear)\n",
        "",
        ["publishing/test_group_commit.py::test_a_forked_child_waits_for_no_thread_of_its_parent"],
    ),
    Mutation(
        "What a transaction published is numbered once it has committed.",
        "sse_app/publishing/publish.py",
        "        number_when_committed({event.group for event in events}, log.alias, _number)\n",
        "",
        [
            "publishing/test_publishing.py::test_a_committed_event_leaves_after_its_commit_with_a_place"
        ],
    ),
    Mutation(
        "While autocommit is off, a commit calls no function: the event would leave before it.",
        "sse_app/runtime/transactions.py",
        "    return not (connection.autocommit if is_open",
        "    return False and not (connection.autocommit if is_open",
        [
            "publishing/test_publishing.py::test_nothing_is_published_while_autocommit_is_off",
            "publishing/test_publishing.py::test_a_cursor_numbers_nothing_while_autocommit_is_off",
        ],
    ),
    Mutation(
        "A row that refers to a changed row could not be added before the commit of the change.",
        "sse_app/changes/publication.py",
        "select_for_update(no_key=features.has_select_for_no_key_update)",
        "select_for_update()",
        [
            "changes/test_bulk.py::test_a_change_of_a_row_keeps_no_row_from_being_added_that_refers_to_it"
        ],
    ),
    Mutation(
        "So it is for a change of many rows.",
        "sse_app/changes/bulk.py",
        ", no_key=features.has_select_for_no_key_update)",
        ")",
        [
            "changes/test_bulk.py::test_a_change_of_a_row_keeps_no_row_from_being_added_that_refers_to_it"
        ],
    ),
    Mutation(
        "A session that has stopped keeps the head locked for ever.",
        "sse_app/eventlog/database_postgresql.py",
        "COALESCE(%s, current_setting('lock_timeout'))",
        "COALESCE(current_setting('lock_timeout'), %s)",
        [
            "eventlog/test_locked_groups.py::test_publishing_to_a_locked_group_fails_soon_and_names_it"
        ],
    ),
    Mutation(
        "In a transaction of the caller, the timeout would hold for what follows.",
        "sse_app/eventlog/database_postgresql.py",
        " if own else ",
        " if True else ",
        [
            "eventlog/test_locked_groups.py::test_in_a_transaction_of_the_caller_its_own_lock_timeout_counts"
        ],
    ),
    Mutation(
        "A change of heads in several statements would wait for a locked head without end.",
        "sse_app/runtime/transactions.py",
        "if outermost and connection.vendor ==",
        "if False and connection.vendor ==",
        ["eventlog/test_locked_groups.py::test_a_new_epoch_for_a_locked_group_is_refused_soon"],
    ),
    Mutation(
        "The app's writes may wait for a writer of the project, in the threads of its reads.",
        "sse_app/runtime/threads.py",
        "WRITES: Final = Threads()",
        "WRITES: Final = OWN",
        ["delivery/test_sqlite_writer.py::test_streams_open_and_replay_while_a_transaction_writes"],
    ),
    Mutation(
        "With ATOMIC_REQUESTS, Django refuses async views.",
        "sse_app/operations/health.py",
        "@non_atomic\n",
        "",
        ["operations/test_health.py::test_a_site_whose_requests_are_transactions_answers"],
    ),
    Mutation(
        "So it is for the dashboard's feed.",
        "sse_app/operations/dashboard/admin.py",
        "non_atomic(require_GET(wrapped))",
        "require_GET(wrapped)",
        ["doors/test_stream_admin.py::test_the_feed_answers_also_where_requests_are_transactions"],
    ),
    Mutation(
        "Django's own decorator frees a view from the transactions of one database.",
        "sse_app/runtime/transactions.py",
        "        return True\n\n\ndef non_atomic",
        "        return alias == 'default'\n\n\ndef non_atomic",
        ["runtime/test_transactions.py::test_a_view_is_atomic_on_no_database"],
    ),
    Mutation(
        "With USE_TZ = False a time with a zone can't be compared with a stored one.",
        "sse_app/conf.py",
        "tz=UTC if django_settings.USE_TZ else None",
        "tz=UTC",
        ["access/test_admission.py::test_grants_hold_also_where_times_have_no_zone"],
    ),
    Mutation(
        "Events wait in silence, if nobody says that their group is locked.",
        "sse_app/operations/health.py",
        "if delay := event_log().delay():",
        "if delay := 0:",
        [
            "eventlog/test_locked_groups.py::test_streams_of_other_groups_open_and_live_beside_a_locked_group"
        ],
    ),
    Mutation(
        "The head of a new group is locked before others can see it.",
        "sse_app/eventlog/database.py",
        "        if brief and len(free) == 1:\n",
        "        if brief:\n",
        [
            "eventlog/test_locked_groups.py::test_a_sweep_that_meets_a_locked_group_numbers_all_others"
        ],
    ),
    Mutation(
        "A process that stopped while it deleted old events has locked them.",
        "sse_app/eventlog/database_pruning.py",
        "        if not is_lock_timeout(error):\n",
        "        if True:\n",
        ["eventlog/test_locked_groups.py::test_pruning_goes_on_beside_a_locked_group"],
    ),
    Mutation(
        "An append to many groups would have more parameters than SQLite takes.",
        "sse_app/eventlog/database_rows.py",
        "CHUNK_ROWS: Final = 1000",
        "CHUNK_ROWS: Final = 100_000",
        [
            "eventlog/test_eventlog.py::test_a_call_may_have_more_groups_than_a_statement_has_parameters"
        ],
    ),
    Mutation(
        "A list of many groups would have more parameters than SQLite takes.",
        "sse_app/eventlog/database_rows.py",
        '"IN (SELECT value FROM json_each(%s))", [json.dumps(list(values))]',
        """f"IN ({', '.join(['%s'] * len(values))})", list(values)""",
        [
            "eventlog/test_eventlog.py::test_a_call_may_have_more_groups_than_a_statement_has_parameters"
        ],
    ),
    Mutation(
        "Old events of ten thousand groups would be deleted by tens of thousands of statements.",
        "sse_app/eventlog/database_pruning.py",
        "    deleted = _delete(alias, lasts)\n",
        "    deleted = sum(_delete(alias, {one: lasts[one]}) or 0 for one in lasts)\n",
        ["eventlog/test_eventlog.py::test_pruning_many_groups_takes_as_many_statements_as_one"],
    ),
    Mutation(
        "The database's collation may be ICU's, where a is before B, unlike in Python.",
        "sse_app/eventlog/database_postgresql.py",
        'ORDER BY v."group" COLLATE "C"',
        'ORDER BY v."group"',
        ["eventlog/test_transactions.py::test_a_database_that_sorts_heads_sorts_them_by_bytes"],
    ),
    Mutation(
        "New epochs for all groups lock the heads of all publishers.",
        "sse_app/eventlog/database.py",
        'Collate("group", "C") if',
        '"group" if',
        ["eventlog/test_transactions.py::test_a_database_that_sorts_heads_sorts_them_by_bytes"],
    ),
    Mutation(
        "An event of async code would leave before the commit of the sync code around it.",
        "sse_app/publishing/on_loop.py",
        "    if not immediate and in_any_transaction(aliases):\n        return None\n",
        "",
        [
            "publishing/test_on_loop.py::test_an_event_waits_for_the_transaction_of_sync_code_around_it",
            "publishing/test_on_loop.py::test_an_event_waits_for_a_transaction_that_async_code_began_in_a_thread",
        ],
    ),
    Mutation(
        "The connection of another thread, which waits for the event loop, has the transaction.",
        "sse_app/runtime/transactions.py",
        "one.alias in aliases and _has_transaction(one) for",
        "False for",
        [
            "publishing/test_on_loop.py::test_an_event_waits_for_the_transaction_of_sync_code_around_it",
            "publishing/test_on_loop.py::test_a_transaction_of_any_thread_is_seen",
        ],
    ),
    Mutation(
        "A forked child has none of the threads that were in a transaction.",
        "sse_app/runtime/transactions.py",
        "at_fork(_note_own)\n",
        "",
        [
            "publishing/test_on_loop.py::test_a_forked_child_knows_the_transactions_of_its_own_thread_only",
        ],
    ),
    Mutation(
        "A receiver may use the database, which Django refuses on an event loop.",
        "sse_app/publishing/on_loop.py",
        "    if signals.event_published.receivers:\n        return None\n",
        "",
        [
            "publishing/test_on_loop.py::test_receivers_are_called_where_they_may_use_the_database",
        ],
    ),
    Mutation(
        "The calls of one loop would overtake each other on several connections to Redis.",
        "sse_app/publishing/on_loop.py",
        "        async with self._lock:\n            return await self._append(log, events)\n",
        "        return await self._append(log, events)\n",
        [
            "publishing/test_on_loop.py::test_with_a_log_in_redis_no_thread_is_used_and_the_order_is_kept",
        ],
    ),
    Mutation(
        "A loop of async_to_sync() would open a connection to Redis for each publish.",
        "sse_app/publishing/on_loop.py",
        " and not outbox.is_loop_of_hub():",
        "  and False:",
        [
            "publishing/test_on_loop.py::test_with_a_log_in_redis_no_thread_is_used_and_the_order_is_kept",
        ],
    ),
    Mutation(
        "Each call of async code would have a thread and a commit of its own.",
        "sse_app/publishing/on_loop.py",
        "        if not self._busy:\n            self._start",
        "        if True:\n            self._start",
        [
            "publishing/test_on_loop.py::test_calls_on_one_loop_share_a_thread_and_an_append",
        ],
    ),
    Mutation(
        "The app's own transactions would send each publish of async code to another thread.",
        "sse_app/runtime/transactions.py",
        "    if not PUBLISHES.has_this_thread():  # Its",
        "    if True:  # Its",
        [
            "publishing/test_on_loop.py::test_a_transaction_of_the_apps_own_publishing_is_no_callers",
        ],
    ),
    Mutation(
        "A hundred publishes in a transaction would be a hundred numberings after the commit.",
        "sse_app/publishing/after_commit.py",
        "            one._groups, one = None, one.following\n",
        "            one._groups, one = None, None\n",
        [
            "eventlog/test_transactions.py::test_a_hundred_publishes_of_a_transaction_are_numbered_together"
        ],
    ),
    Mutation(
        "A numbering would take several round trips, during which the heads are locked.",
        "sse_app/eventlog/database.py",
        "if sends_together(tables.connection) and not",
        "if False and not",
        [
            "eventlog/test_transactions.py::test_a_hundred_publishes_of_a_transaction_are_numbered_together",
            "changes/test_bulk.py::test_a_save_in_autocommit_is_four_statements_on_postgresql",
        ],
    ),
    Mutation(
        "An event whose head is not locked could get the offset of another event.",
        "sse_app/eventlog/database_numbering.py",
        " AND h.xmin = pg_current_xact_id()::xid",
        "",
        [
            "eventlog/test_transactions.py::"
            "test_an_event_that_a_numbering_did_not_see_is_not_numbered_without_its_head"
        ],
    ),
    Mutation(
        "The head of a group without an event would have an epoch and no event.",
        "sse_app/eventlog/database_numbering.py",
        """set_config('lock_timeout', '{{timeout}}', true) <> '' AND EXISTS (""",
        """set_config('lock_timeout', '{{timeout}}', true) <> '' OR EXISTS (""",
        [
            "eventlog/test_transactions.py::test_a_hundred_publishes_of_a_transaction_are_numbered_together"
        ],
    ),
    Mutation(
        "Two passes that lock the same heads in different orders wait for each other.",
        "sse_app/eventlog/database_rows.py",
        "for some in portions(sorted(groups)):\n",
        "for some in portions(sorted(groups, key=str.lower)):\n",
        ["eventlog/test_transactions.py::test_heads_are_locked_in_the_order_of_bytes"],
    ),
    Mutation(
        "On PostgreSQL an error aborts the whole transaction, also of a caller that catches it.",
        "sse_app/runtime/transactions.py",
        '"SAVEPOINT sse_app; {}; RELEASE SAVEPOINT sse_app"',
        '"{}"',
        [
            "eventlog/test_transactions.py::test_after_an_error_of_the_log_the_callers_transaction_goes_on",
            "eventlog/test_transactions.py::test_a_user_is_saved_although_the_log_fails",
        ],
    ),
    Mutation(
        "Statements with parameters on the server's side can't be sent together.",
        "sse_app/runtime/transactions.py",
        'and not options.get("server_side_binding")',
        "",
        [
            "eventlog/test_transactions.py::test_after_an_error_of_the_log_the_callers_transaction_goes_on"
        ],
    ),
    Mutation(
        "A publisher may die between its commit and the numbering.",
        "sse_app/publishing/outbox.py",
        "every(lambda: settings().SWEEP_INTERVAL, self._sweep)",
        "every(lambda: 600.0, self._sweep)",
        ["delivery/test_resume.py::test_a_publisher_that_died_before_numbering_is_swept_up"],
    ),
    Mutation(
        "A sweep of a file that has not changed finds nothing.",
        "sse_app/publishing/outbox.py",
        "changes is not None and changes == swept and",
        "False and",
        [
            "operations/test_idle.py::"
            "test_an_idle_process_asks_the_database_less_than_once_in_five_seconds"
        ],
    ),
    Mutation(
        "After a change of the file there may be events to number.",
        "sse_app/publishing/outbox.py",
        "changes == swept and",
        "",
        ["operations/test_idle.py::test_after_a_change_of_the_file_events_are_swept_up"],
    ),
    Mutation(
        "What the page shows has been committed, and may not have been numbered yet.",
        "sse_app/publishing/page_cursor.py",
        "        outbox.send(log.number(names))\n",
        "        pass\n",
        [
            "publishing/test_publishing.py::test_cursor_stands_after_what_is_committed_but_not_yet_numbered"
        ],
    ),
    Mutation(
        "A commit whose answer was lost may have been done, and would be done twice.",
        "sse_app/eventlog/database.py",
        'return state in ("40001", "40P01") or "locked" in str(error)',
        "return True",
        ["publishing/test_publishing.py::test_a_commit_whose_answer_was_lost_is_not_repeated"],
    ),
    Mutation(
        "A database gives up one of two transactions that wait for each other.",
        "sse_app/eventlog/database.py",
        "for attempt in range(1, ATTEMPTS):",
        "for attempt in range(0):",
        ["eventlog/test_eventlog.py::test_a_pass_that_the_database_gave_up_is_done_again"],
    ),
    Mutation(
        "What retention has deleted leaves a gap, and what comes after it looks like the next.",
        "sse_app/eventlog/database_pages.py",
        "    if not rows or rows[0][0] != after.offset + 1:\n"
        '        raise Discontinuity("trimmed", head)\n',
        "",
        ["eventlog/test_eventlog.py::test_a_position_before_what_is_left_is_refused"],
    ),
    Mutation(
        "A log that was put back from a copy gives out its offsets again.",
        "sse_app/eventlog/contract.py",
        "    if after.offset > head.offset:\n",
        "    if False:\n",
        ["eventlog/test_eventlog.py::test_a_position_after_the_head_is_refused"],
    ),
    Mutation(
        "A log that was lost counts from one again, under another name.",
        "sse_app/eventlog/contract.py",
        "    if not after.is_start and after.epoch != head.epoch:\n",
        "    if False:\n",
        ["eventlog/test_eventlog.py::test_a_position_of_another_epoch_is_refused"],
    ),
    Mutation(
        "A head that went back means another log, and not silence until it has caught up.",
        "sse_app/delivery/healing.py",
        'lost.reason in ("epoch", "future") and lost.head.epoch == position.epoch',
        "False",
        ["delivery/test_resume.py::test_a_restored_older_log_is_a_new_epoch_and_no_deafness"],
    ),
    Mutation(
        "A log that went back and grew again has another event at the reader's position.",
        "sse_app/eventlog/contract.py",
        "    if not marks_agree(after.mark, mark):\n",
        "    if False:\n",
        ["eventlog/test_eventlog.py::test_a_position_that_another_event_took_is_refused"],
    ),
    Mutation(
        "A log that went back and grew to the same length has another event at its head.",
        "sse_app/eventlog/contract.py",
        "    if after.offset == head.offset and not marks_agree(after.mark, head.mark):\n",
        "    if False:\n",
        ["eventlog/test_eventlog.py::test_a_position_that_another_event_took_is_refused"],
    ),
    Mutation(
        "A log that went back needs a new epoch: some readers lack its lost events unknowingly.",
        "sse_app/delivery/healing.py",
        'lost.reason in ("epoch", "future") and lost.head.epoch == position.epoch',
        'lost.reason == "future"',
        [
            "delivery/test_hub.py::"
            "test_a_log_that_went_back_and_grew_again_in_one_step_is_found_by_its_marks"
        ],
    ),
    Mutation(
        "A head at the same offset may be another event.",
        "sse_app/delivery/healing.py",
        "went_back = head.offset <= old.offset and not head.agrees(old)",
        "went_back = head.offset < old.offset",
        [
            "delivery/test_hub.py::"
            "test_a_log_that_went_back_and_grew_again_in_one_step_is_found_by_its_marks"
        ],
    ),
    Mutation(
        "A check that reads the heads of all groups costs what the groups cost.",
        "sse_app/delivery/healing.py",
        "            await self._check([*self._recent, *self._pending, *self._turn()])\n",
        "            await self._check([*self._topics])\n",
        ["delivery/test_checks.py::test_a_check_of_many_idle_groups_reads_few_heads_by_one_call"],
    ),
    Mutation(
        "A check compares all heads only after a failure, and for a log that can't tell.",
        "sse_app/delivery/healing.py",
        "            all_heads = whole or changes.heads is None\n",
        "            all_heads = True\n",
        ["delivery/test_checks.py::test_a_check_of_many_idle_groups_reads_few_heads_by_one_call"],
    ),
    Mutation(
        "With the first event of a group its log has an epoch: that is no loss.",
        "sse_app/delivery/healing.py",
        " and (head.epoch == now.epoch or now.is_start):\n",
        " and head.epoch == now.epoch:\n",
        ["delivery/test_checks.py::test_a_check_of_many_idle_groups_reads_few_heads_by_one_call"],
    ),
    Mutation(
        "A process of an older version notes no change: each group must have its turn.",
        "sse_app/delivery/healing.py",
        "[*self._recent, *self._pending, *self._turn()]",
        "[*self._recent, *self._pending]",
        ["delivery/test_checks.py::test_a_head_that_the_log_did_not_note_is_found_within_a_round"],
    ),
    Mutation(
        "A group whose head was compared is the last one to have its turn again.",
        "sse_app/delivery/healing.py",
        "            self._topics.move_to_end(group)\n",
        "            pass\n",
        ["delivery/test_checks.py::test_the_checks_of_a_round_compare_each_group_once"],
    ),
    Mutation(
        "A check that failed may have lost the answer that a group changed.",
        "sse_app/delivery/healing.py",
        "            self._whole = True\n            raise\n",
        "            raise\n",
        ["delivery/test_checks.py::test_after_a_failed_check_all_heads_are_compared"],
    ),
    Mutation(
        "While the mailbox was closed, any group may have missed events.",
        "sse_app/delivery/hub.py",
        "self._deliver, self.check_all)",
        "self._deliver, self.check)",
        ["delivery/test_checks.py::test_after_a_failed_check_all_heads_are_compared"],
    ),
    Mutation(
        "One group that went back means that others may have, too.",
        "sse_app/delivery/healing.py",
        '            self._whole = self._whole or lost.reason in ("epoch", "future")\n',
        "",
        [
            "delivery/test_checks.py::"
            "test_a_log_that_went_back_is_found_by_the_groups_that_were_delivered_to_last"
        ],
    ),
    Mutation(
        "The last events are the first to be missing in a log that went back.",
        "sse_app/delivery/healing.py",
        "            self.delivered(topic.group)\n",
        "",
        [
            "delivery/test_checks.py::"
            "test_a_log_that_went_back_is_found_by_the_groups_that_were_delivered_to_last"
        ],
    ),
    Mutation(
        "A group that starts may have read its head before the change that a check saw.",
        "sse_app/delivery/healing.py",
        "                self._pending.add(group)\n",
        "                continue\n",
        ["delivery/test_checks.py::test_a_change_while_a_group_starts_is_found_by_the_next_check"],
    ),
    Mutation(
        "After each commit to the SQLite file, only what it changed is read.",
        "sse_app/delivery/hub.py",
        "logged(self._healer.check_changes)",
        "logged(self.check)",
        ["delivery/test_checks.py::test_a_commit_is_followed_by_a_read_of_what_it_changed"],
    ),
    Mutation(
        "The memory log counts its changes, so that a check reads the last ones.",
        "sse_app/eventlog/memory.py",
        "                self._note_change(group)\n                self._logs[group].trim",
        "                self._logs[group].trim",
        [
            "eventlog/test_changes.py::"
            "test_the_answer_has_the_heads_that_changed_and_those_asked_for"
        ],
    ),
    Mutation(
        "A new epoch is a change of the head, of which other processes must learn.",
        "sse_app/eventlog/database_rows.py",
        'new epochs."""\n        clock, now = self.clock()\n',
        'new epochs."""\n        clock, now = \'"changed_at"\', list[object]()\n',
        ["eventlog/test_changes.py::test_a_new_epoch_is_a_change"],
    ),
    Mutation(
        "On PostgreSQL a change may be committed after a later one.",
        "sse_app/eventlog/database_changes.py",
        "        return OVERLAP_SECONDS + (at",
        "        return 0 + (at",
        ["eventlog/test_changes.py::test_a_change_is_found_that_was_committed_after_a_later_one"],
    ),
    Mutation(
        "SQLite's changes are read from the newest one on, and not all of them.",
        "sse_app/eventlog/database_changes.py",
        "    return str(min(seen.newest or datetime.min, seen.at)) if seen else str(at)\n",
        "    return str(datetime.min)\n",
        [
            "eventlog/test_changes.py::"
            "test_the_answer_has_the_heads_that_changed_and_those_asked_for"
        ],
    ),
    Mutation(
        "A writer that waits for SQLite's lock would date its change before those of others.",
        "sse_app/eventlog/database_rows.py",
        'not in ("IMMEDIATE", "EXCLUSIVE"):',
        'in ("",):',
        [
            "eventlog/test_changes.py::"
            "test_the_time_of_a_change_on_sqlite_is_after_the_wait_for_the_other_writers"
        ],
    ),
    Mutation(
        "The newest head of a log that went back is older than before.",
        "sse_app/eventlog/database_changes.py",
        "    return seen.newest is not None and (now.newest is None or now.newest < seen.newest)\n",
        "    return False\n",
        ["eventlog/test_changes.py::test_an_older_newest_head_shows_that_the_log_went_back"],
    ),
    Mutation(
        "A stream of changes without the last entry that was seen has lost more.",
        "sse_app/eventlog/redis_changes.py",
        "            if last and (not entries or entries[-1][0] != last):\n",
        "            if False:\n",
        [
            "eventlog/test_changes.py::"
            "test_a_stream_of_changes_that_lost_its_last_entry_shows_that_the_log_went_back"
        ],
    ),
    Mutation(
        "On a cluster the stream of changes may be on another node than the group.",
        "sse_app/eventlog/redis_changes.py",
        "if len(self._keys) > 1 and not isinstance(answer, Exception) and not answer[3]\n",
        "if False\n",
        [
            "eventlog/test_changes.py::"
            "test_a_change_is_found_on_a_cluster_whose_stream_of_changes_is_on_another_node"
        ],
    ),
    Mutation(
        "An older log that has caught up again differs by its events only.",
        "sse_app/delivery/topics.py",
        "self.contradicted = self.contradicted or self._recent.contradicts(position)",
        "pass",
        [
            "delivery/test_hub.py::test_an_older_log_that_has_caught_up_again_is_found_by_its_first_new_event"
        ],
    ),
    Mutation(
        "An event after another one than the reader's last is not the next one.",
        "sse_app/delivery/topics.py",
        "        and marks_agree(event.previous, previous.mark)\n",
        "",
        ["delivery/test_hub.py::test_an_event_on_another_chain_is_no_next_event"],
    ),
    Mutation(
        "Memory may have another event at the position of a reader that comes back.",
        "sse_app/delivery/recent.py",
        "        if not marks_agree(position.mark, self._events[at].previous):\n",
        "        if False:\n",
        ["delivery/test_recent.py::test_a_topic_that_forgot_reads_the_log_and_says_so"],
    ),
    Mutation(
        "Thousands of groups each keep a megabyte.",
        "sse_app/delivery/recent.py",
        "        while self.bytes > BUDGET_BYTES:\n",
        "        while False:\n",
        [
            "delivery/test_recent.py::"
            "test_beyond_the_budget_the_group_that_was_used_least_recently_forgets"
        ],
    ),
    Mutation(
        "A group without readers would keep its share of the memory.",
        "sse_app/delivery/hub.py",
        "self.topics.pop(group).forget_recent()",
        "self.topics.pop(group)",
        ["delivery/test_recent.py::test_a_group_without_readers_has_no_share"],
    ),
    Mutation(
        "A process of an older version counts without marks: the head then has an old mark.",
        "sse_app/eventlog/database_rows.py",
        """CASE WHEN h."marked" = h."offset" THEN""",
        """CASE WHEN 1 = 1 THEN""",
        ["eventlog/test_eventlog.py::test_an_older_version_appends_to_the_same_log"],
    ),
    Mutation(
        "A Redis that was restarted does not know the scripts by their names.",
        "sse_app/eventlog/redis_clients.py",
        "            return self.sync.eval(script, *call)\n",
        "            raise\n",
        ["eventlog/test_redis_log.py::test_a_server_that_does_not_know_the_scripts_gets_them"],
    ),
    Mutation(
        "A Redis that was restarted does not know the scripts by their names. On a loop, too.",
        "sse_app/eventlog/redis_clients.py",
        "                return await client.eval(*call)\n",
        "                raise\n",
        ["eventlog/test_redis_log.py::test_a_server_that_does_not_know_the_scripts_gets_them"],
    ),
    Mutation(
        "After a failover of a Redis Cluster, redis-py asks the old primary for ever.",
        "sse_app/eventlog/redis_clients.py",
        "        if self.cluster and any(isinstance(answer, Exception) for answer in answers):\n",
        "        if False:\n",
        ["servers/test_going_back.py::test_every_client_is_told_of_what_was_lost_by_a_failover"],
    ),
    Mutation(
        "A process of an older version counts without marks on Redis, too.",
        "sse_app/eventlog/redis_scripts.py",
        "local previous = found[4] == found[2] and found[3] or ''",
        "local previous = found[3] or ''",
        ["eventlog/test_redis_log.py::test_an_older_version_appends_to_the_same_log"],
    ),
    Mutation(
        "A date of more than a few thousand years ago can't be written.",
        "sse_app/eventlog/retention.py",
        "seconds is None or seconds >= MOST_SECONDS else",
        "seconds is None else",
        ["eventlog/test_eventlog.py::test_without_a_limit_of_age_events_and_heads_stay"],
    ),
    Mutation(
        "Keys that may expire are the first that Redis gives up when its memory is full.",
        "sse_app/eventlog/redis_scripts.py",
        "local least = tonumber(ARGV[4])\nif age == 0 then age = math.huge end\n",
        "local least = tonumber(ARGV[4])\nif age == 0 then age = 1e12 end\n",
        ["eventlog/test_redis_log.py::test_a_group_never_expires_while_events_are_kept_for_ever"],
    ),
    Mutation(
        "The rows of access may be in another database than the log, which is away.",
        "sse_app/operations/housekeeping.py",
        "await logged(_delete_expired)",
        "await _delete_expired()",
        [
            "operations/test_commands.py::test_expired_rows_that_cannot_be_deleted_do_not_keep_the_log_from_being_pruned"
        ],
    ),
    Mutation(
        "Who saw a group empty before all retention may have missed everything.",
        "sse_app/delivery/replay.py",
        " or time.time() - seen > retention_seconds():\n",
        ":\n",
        [
            "delivery/test_healing.py::test_who_saw_a_group_empty_goes_on_from_its_beginning_within_retention"
        ],
    ),
    Mutation(
        "Who saw a group empty in another log may have missed that one's events.",
        "sse_app/eventlog/redis_answers.py",
        "    if after.is_start:\n        check_chain(after, start.mark, head)\n",
        "",
        ["delivery/test_healing.py::test_who_saw_a_group_empty_in_another_log_is_told"],
    ),
    Mutation(
        "A head that goes with its events lets a group begin anew under the eyes of its readers.",
        "sse_app/eventlog/database_pruning.py",
        "_before(age * HEAD_RETENTION_FACTOR)",
        "_before(age)",
        ["eventlog/test_eventlog.py::test_an_idle_groups_head_outlives_its_events"],
    ),
    Mutation(
        "A deferred transaction that turns into a writing one fails at once, whatever the timeout.",
        "project/settings.py",
        '            "transaction_mode": "IMMEDIATE",\n',
        "",
        ["doors/test_deploy_checks.py::test_the_demos_own_database_is_as_it_should_be"],
    ),
    Mutation(
        "Without WAL, readers and writers of a SQLite file wait for each other.",
        "project/settings.py",
        "PRAGMA journal_mode=WAL; ",
        "",
        ["doors/test_deploy_checks.py::test_the_demos_own_database_is_as_it_should_be"],
    ),
    Mutation(
        "A project's SQLite begins deferred, as that is Django's default.",
        "sse_app/checks/deployment.py",
        "    _sqlite,\n",
        "",
        ["doors/test_deploy_checks.py::test_sqlite_that_begins_deferred_is_named"],
    ),
    Mutation(
        "Clients that come back at once, each to a group of its own, would each read the log.",
        "sse_app/delivery/log_reader.py",
        "if 0 < behind <= FEW_EVENTS:",
        "if False:",
        [
            "delivery/test_hub.py"
            "::test_readers_a_few_events_behind_in_groups_of_their_own_share_a_read"
        ],
    ),
    Mutation(
        "A log of a project that reads in its own way, such as one that decrypts, is passed by.",
        "sse_app/eventlog/database.py",
        "if type(self).since is not DatabaseEventLog.since:",
        "if False:",
        ["eventlog/test_eventlog.py::test_a_log_with_a_read_of_its_own_is_read_by_it"],
    ),
    Mutation(
        "A read of many groups would hold all events of each of them in memory.",
        "sse_app/eventlog/database_pages.py",
        """'AND e."offset" <= "after" + %s '""",
        """'AND e."offset" <= "after" + 100 + %s '""",
        [
            "eventlog/test_eventlog.py"
            "::test_reads_of_many_groups_together_give_what_each_read_alone_gives"
        ],
    ),
    Mutation(
        "A connection to a SQLite file that was replaced sees no commit any more.",
        "sse_app/eventlog/database_sqlite.py",
        "while not stop.wait(POLL_SECONDS) and file_identity(path) == file:",
        "while not stop.wait(POLL_SECONDS):",
        ["eventlog/test_eventlog.py::test_the_watch_on_sqlite_follows_the_name_of_the_file"],
    ),
    Mutation(
        "A connection to a SQLite file that was deleted makes an empty one.",
        "sse_app/eventlog/database_sqlite.py",
        '}?mode=rw"',
        '}"',
        ["eventlog/test_eventlog.py::test_the_watch_on_sqlite_follows_the_name_of_the_file"],
    ),
    Mutation(
        "SQLite refuses to turn a transaction that has read into one that writes.",
        "sse_app/publishing/idempotency.py",
        "            if _claim(rows, key):\n",
        "            if not rows.filter(digest=key).exists() and _claim(rows, key):\n",
        ["publishing/test_idempotency.py::test_the_key_is_written_before_anything_is_read"],
    ),
    Mutation(
        "Another process's commits to a SQLite file are announced to nobody.",
        "sse_app/eventlog/database.py",
        'return watch_file(self._connection.settings_dict["NAME"], changed)',
        "return None",
        [
            "delivery/test_stream.py::test_on_sqlite_another_process_publishes_without_waiting_for_the_check"
        ],
    ),
    Mutation(
        "A log that hangs would cost each publish a wait of its own.",
        "sse_app/eventlog/breaker.py",
        "            self._check(self._until)\n",
        "            pass\n",
        [
            "eventlog/test_redis_hangs.py::test_after_a_call_without_an_answer_the_next_ones_are_not_"
            "sent"
        ],
    ),
    Mutation(
        "At the end of a pause one call is let through, and not all of them.",
        "sse_app/eventlog/breaker.py",
        "            self._until = now + PAUSE_SECONDS\n            return\n",
        "            self._until = None\n            return\n",
        ["eventlog/test_redis_hangs.py::test_while_the_probe_has_no_answer_others_fail_at_once"],
    ),
    Mutation(
        "A refused connection fails by itself, and a pause would outlast the restart of Redis.",
        "sse_app/eventlog/redis_clients.py",
        "self.no_answer = (RedisTimeoutError, TimeoutError)",
        "self.no_answer = (RedisTimeoutError, TimeoutError, __import__('redis').RedisError)",
        ["eventlog/test_redis_hangs.py::test_an_error_and_a_refused_connection_are_answers"],
    ),
    Mutation(
        "A firewall that forgot one connection has forgotten the idle ones, too.",
        "sse_app/eventlog/redis_clients.py",
        "        except self.no_answer:\n            self.close_idle()\n",
        "        except self.no_answer:\n",
        ["eventlog/test_redis_hangs.py::test_no_idle_connection_is_kept_when_one_is_silent"],
    ),
    Mutation(
        "A loop reads the heads all the time, so it finds a silent connection before a publisher.",
        "sse_app/eventlog/redis_clients.py",
        "        self._clients.close_idle()\n",
        "",
        [
            "eventlog/test_redis_hangs.py::test_a_loop_that_finds_a_silent_connection_closes_the_"
            "threads_ones_too"
        ],
    ),
    Mutation(
        "Within a transaction of Redis, WAIT does not wait.",
        "sse_app/eventlog/redis_clients.py",
        'return [*scripts, ["WAIT", self.wait_replicas, int(seconds * 1000)]]',
        'return [*scripts, ["ECHO", self.wait_replicas]]',
        [
            "eventlog/test_redis_hangs.py::test_an_event_that_no_replica_confirmed_is_stored_and_the_"
            "publisher_is_told"
        ],
    ),
    Mutation(
        "An event that is stored on too few replicas is stored, so its readers get it.",
        "sse_app/publishing/publish.py",
        "        outbox.send(error.stored)\n",
        "",
        [
            "eventlog/test_redis_hangs.py::test_an_event_that_no_replica_confirmed_reaches_its_readers"
        ],
    ),
    Mutation(
        "A hundred publishes in a transaction would be a hundred round trips, and waits.",
        "sse_app/publishing/after_commit.py",
        "for callback in (self, *self._rest())",
        "for callback in (self,)",
        [
            "eventlog/test_redis_hangs.py::test_the_publishes_of_a_transaction_are_one_append",
            "eventlog/test_redis_hangs.py::test_a_hundred_publishes_wait_once_for_a_log_that_hangs",
        ],
    ),
    Mutation(
        "The rollback of a savepoint makes a new list, and the old one has what was rolled back.",
        "sse_app/publishing/after_commit.py",
        "        if callbacks and callbacks[0] is first:\n",
        "        if False:\n",
        ["eventlog/test_redis_hangs.py::test_what_a_savepoint_rolled_back_is_in_no_append"],
    ),
    Mutation(
        "redis-py sends a command again whose answer was lost, and it would be done twice.",
        "sse_app/eventlog/redis_clients.py",
        '{**UNLIMITED, **self._options, "retry": Retry(NoBackoff(), 0)}',
        "{**UNLIMITED, **self._options}",
        ["eventlog/test_redis_log.py::test_a_lost_answer_is_not_asked_for_again"],
    ),
    Mutation(
        "The client for event loops sends a command again, too.",
        "sse_app/eventlog/redis_clients.py",
        "        from redis.asyncio.retry import Retry\n"
        "        from redis.backoff import NoBackoff\n\n"
        '        options = {**self._options, "retry": Retry(NoBackoff(), 0)}\n',
        "        options = dict(self._options)\n",
        ["eventlog/test_redis_log.py::test_a_lost_answer_is_not_asked_for_again_on_an_event_loop"],
    ),
    Mutation(
        "A connection of redis-py's is no other process's, nor another loop's.",
        "sse_app/eventlog/redis_clients.py",
        "        client = self._of_loop.get(loop)\n",
        "        client = next(iter(self._of_loop.values()), None)\n",
        ["eventlog/test_redis_log.py::test_each_event_loop_has_connections_of_its_own"],
    ),
    Mutation(
        "redis-py's pools refuse a command that finds no connection free.",
        "sse_app/eventlog/redis_clients.py",
        "asyncio.Semaphore(connections)",
        "asyncio.Semaphore(10_000)",
        ["eventlog/test_redis_log.py::test_more_commands_than_connections_wait_for_one"],
    ),
    Mutation(
        "An URL or the options may allow fewer connections than the log would use.",
        "sse_app/eventlog/redis_clients.py",
        "min(CONNECTIONS, pool.max_connections)",
        "CONNECTIONS",
        ["eventlog/test_redis_log.py::test_fewer_connections_where_the_settings_allow_fewer"],
    ),
    Mutation(
        "redis-py allows a hundred connections for all threads together.",
        "sse_app/eventlog/redis_clients.py",
        "**UNLIMITED, ",
        "",
        [
            "eventlog/test_redis_log.py::test_more_threads_than_redis_py_allows_connections_append_at_once"
        ],
    ),
    Mutation(
        "The last stream closes the client of its loop, on which others publish or begin.",
        "sse_app/eventlog/redis_clients.py",
        "        if self._retired and not self._borrowers:\n",
        "        if self._retired:\n",
        [
            "eventlog/test_redis_log.py::test_commands_in_flight_keep_their_connections_when_the_log_is_"
            "closed",
            "delivery/test_starts.py::test_the_last_reader_may_leave_at_any_moment_while_a_new_one_comes",
        ],
    ),
    Mutation(
        "Redis may lose a group's head and keep its events.",
        "sse_app/eventlog/redis_scripts.py",
        "  redis.call('DEL', KEYS[2])\n",
        "",
        ["eventlog/test_redis_log.py::test_without_its_head_a_group_begins_anew"],
    ),
    Mutation(
        "Anybody may write into a stream of Redis.",
        "sse_app/eventlog/redis_answers.py",
        "        if event is None or event.offset != after.offset + 1 + len(events):\n",
        "        if event is None:\n",
        ["eventlog/test_redis_log.py::test_without_its_events_a_group_is_trimmed"],
    ),
    Mutation(
        "A broadcast that an older process composed as a template would go out as it was typed.",
        "sse_app/broadcasts/composition.py",
        "    if kind == TEXT:\n        return to_text(body)\n    raise ValueError(",
        "    return to_text(body)\n    raise ValueError(",
        [
            "broadcasts/test_composition.py::test_any_other_kind_is_refused_with_its_name",
            "broadcasts/test_broadcasts.py::test_a_scheduled_template_fails_and_a_sent_one_stays",
        ],
    ),
    Mutation(
        "A template scheduled for next month would look as if it were still sent.",
        "sse_app/migrations/0008_no_templates.py",
        'rows.filter(state="scheduled", kind="template").update(state="failed", error=ERROR)',
        "rows.none()",
        ["broadcasts/test_broadcasts.py::test_a_scheduled_template_fails_and_a_sent_one_stays"],
    ),
    Mutation(
        "One click of an administrator selects a whole table.",
        "sse_app/broadcasts/action.py",
        "if len(objects) > MOST_SELECTED:",
        "if not objects:",
        ["doors/test_admin.py::test_a_selection_of_a_whole_table_is_refused"],
    ),
    Mutation(
        "An event that fits no more would be a new row that fails, or an error page.",
        "sse_app/broadcasts/admin.py",
        "                row.events()\n",
        "                pass\n",
        ["broadcasts/test_broadcast_admin.py::test_what_can_not_be_sent_any_more_is_not_repeated"],
    ),
    Mutation(
        "Django sends no signal of bulk_create().",
        "sse_app/changes/bulk.py",
        "                self._publish_created(made)\n",
        "                pass\n",
        ["changes/test_bulk.py::test_bulk_create_publishes_what_single_saves_do"],
    ),
    Mutation(
        "Django sends no signal of update().",
        "sse_app/changes/bulk.py",
        "            self._publish_rows(keys, before)\n",
        "            pass\n",
        ["changes/test_bulk.py::test_update_publishes_the_rows_it_changed_with_old_and_new_values"],
    ),
    Mutation(
        "Django sends no signal of bulk_update().",
        "sse_app/changes/bulk.py",
        "            self._publish_rows([row.pk for row in found], before)\n",
        "            pass\n",
        ["changes/test_bulk.py::test_bulk_update_publishes_the_rows_that_changed"],
    ),
    Mutation(
        "A change of a many-to-many field is no change of the row.",
        "sse_app/changes/many_to_many.py",
        "    m2m_changed.connect(changed, sender=through, weak=False)\n",
        "",
        ["changes/test_many_to_many.py::test_added_and_removed_rows_are_published"],
    ),
    Mutation(
        "In autocommit Django sends post_save outside any transaction.",
        "sse_app/changes/saves.py",
        "with transaction.atomic(using=using, savepoint=False):",
        'with __import__("contextlib").nullcontext():',
        ["changes/test_changes.py::test_row_and_event_are_one_transaction_in_autocommit"],
    ),
    Mutation(
        "A savepoint for each save would cost a project two statements more, and be of no use.",
        "sse_app/changes/saves.py",
        "with transaction.atomic(using=using, savepoint=False):",
        "with transaction.atomic(using=using):",
        ["changes/test_saves.py::test_a_save_within_a_transaction_makes_no_savepoint"],
    ),
    Mutation(
        "The old values of a row in two tables would be read after the first one was written.",
        "sse_app/changes/saves.py",
        "if save is None and issubclass(own, table):",
        "if save is None and table is own:",
        [
            "changes/test_saves.py::test_old_values_of_a_row_with_two_tables_are_those_before_the_first"
        ],
    ),
    Mutation(
        "A transaction around delete() would forbid a durable one of the project.",
        "sse_app/changes/pending.py",
        "    with _collected(Pending(using, alone=alone, deletes=True)):",
        "    with transaction.atomic(using), _collected(Pending(using)):",
        ["changes/test_saves.py::test_a_model_may_save_and_delete_in_a_durable_transaction"],
    ),
    Mutation(
        "Each row of a delete() would be published by a statement of its own.",
        "sse_app/changes/pending.py",
        "if self.deletes and not self._expected:",
        "if self.deletes:",
        [
            "changes/test_saves.py::test_the_rows_of_a_delete_are_published_together_with_its_cascades"
        ],
    ),
    Mutation(
        "The readers of a group that a row has left would show it for ever.",
        "sse_app/changes/publication.py",
        "if old is not None and left else []",
        "if old is None and left else []",
        ["changes/test_groups.py::test_each_way_to_move_a_row_tells_its_old_group"],
    ),
    Mutation(
        "A change of the instance that was not saved would tell that the row has moved.",
        "sse_app/changes/publication.py",
        "if old is None or written is None or not (self.is_movable and same):",
        "if True:",
        ["changes/test_groups.py::test_groups_of_a_function_are_compared_too"],
    ),
    Mutation(
        "A row that counts as deleted would be published like any other.",
        "sse_app/changes/publication.py",
        "return self.deleted is None or not row.__dict__.get(self.deleted.attname)",
        "return True",
        [
            "changes/test_groups.py::test_a_row_with_the_mark_of_a_deleted_one_is_published_as_deleted"
        ],
    ),
    Mutation(
        "A user could choose a text with the name that another text is encoded to.",
        "sse_app/protocol/groups.py",
        "if _NAME.match(text) and not _ENCODED.search(text):",
        "if _NAME.match(text):",
        ["changes/test_groups.py::test_different_texts_have_different_names"],
    ),
    Mutation(
        "A proxy and its concrete model are one row, so they are one group.",
        "sse_app/protocol/groups.py",
        "model: Any = instance._meta.concrete_model",
        "model: Any = type(instance)",
        [
            "publishing/test_objects.py::test_the_group_of_an_instance_has_its_app_its_model_and_its_key"
        ],
    ),
    Mutation(
        "An instance that was saved with the key as text would have another group than when read.",
        "sse_app/protocol/groups.py",
        "key = model._meta.pk.to_python(instance.pk)",
        "key = instance.pk",
        ["publishing/test_objects.py::test_a_model_with_a_table_of_its_own_has_names_of_its_own"],
    ),
    Mutation(
        "An instance with a default for its key has a key before it is saved.",
        "sse_app/protocol/groups.py",
        "if instance.pk is None or instance._state.adding:",
        "if instance.pk is None:",
        ["publishing/test_objects.py::test_a_model_with_a_table_of_its_own_has_names_of_its_own"],
    ),
    Mutation(
        "An event whose group is an object could not be compared or sent.",
        "sse_app/protocol/events.py",
        "and validate_full(self.group) is not self.group:",
        "and not validate_full(self.group):",
        ["publishing/test_objects.py::test_an_unsaved_instance_is_an_error"],
    ),
    Mutation(
        "A text of a user that is no valid name of a group would fail the save.",
        "sse_app/changes/publication.py",
        "[group_name(pattern.format_map(values)) for",
        "[pattern.format_map(values) for",
        ["changes/test_groups.py::test_a_group_of_a_users_text_does_not_fail_the_save"],
    ),
    Mutation(
        "A long text would fail the save of its row.",
        "sse_app/changes/content.py",
        "    for omitted in ([*names], []):\n",
        "    for omitted in ():\n",
        [
            "changes/test_content.py::test_a_row_that_is_too_long_is_published_with_its_key_and_what_is_left_out"
        ],
    ),
    Mutation(
        "Infinity in a column would fail the save of its row.",
        "sse_app/changes/content.py",
        "    except ValueError:\n        return to_text(_plain(data))\n",
        "",
        ["changes/test_content.py::test_files_infinity_and_bytes_are_given_as_text"],
    ),
    Mutation(
        "A price that was set as 20 would be published as 20 and read as 20.00.",
        "sse_app/changes/content.py",
        "            return value.quantize(",
        "            return value and value or value.quantize(",
        ["changes/test_content.py::test_values_are_published_as_the_database_gives_them"],
    ),
    Mutation(
        "The value of a generated field would be that of before the update.",
        "sse_app/changes/publication.py",
        "or (field.generated and (not created or field.attname not in have))",
        "or (field.generated and field.attname not in have)",
        ["changes/test_content.py::test_generated_fields_and_database_defaults_are_read_again"],
    ),
    Mutation(
        "Async code that calls publish() is told of a thread, and not of apublish().",
        "sse_app/runtime/callables.py",
        "        except SynchronousOnlyOperation as error:\n",
        "        except ZeroDivisionError as error:\n",
        ["handbook/test_mistakes.py::test_a_mistake_leads_to_its_cure"],
    ),
    Mutation(
        "A read of a database without tables names a table, and not the command that makes it.",
        "sse_app/eventlog/database_rows.py",
        "        with needs_tables(self.connection.alias):\n            self.cursor",
        "        if True:\n            self.cursor",
        ["handbook/test_mistakes.py::test_a_database_without_tables_is_named_with_the_command"],
    ),
    Mutation(
        "@publish_changes without parentheses fails with a count of arguments.",
        "sse_app/changes/decorator.py",
        'if args or "groups" not in kwargs:',
        "if False:",
        ["handbook/test_mistakes.py::test_a_mistake_leads_to_its_cure"],
    ),
    Mutation(
        "A migration that saves a decorated model would fail with the name of a table.",
        "sse_app/eventlog/missing_tables.py",
        "raise MissingTables(text.format(alias, _last_migration())) from error\n",
        "raise",
        [
            "eventlog/test_eventlog.py::test_a_database_without_the_tables_is_named_with_the_line_that_a_migration_needs"
        ],
    ),
)
