"""What Channels and its layers do."""

from __future__ import annotations

from ..mutations import Mutation

MUTATIONS = (
    Mutation(
        "A probe of the log waits for other calls that hang in the threads that they share.",
        "sse_app/operations/health.py",
        'await _threads.call("log", PROBE_SECONDS, read)',
        "await event_log().aheads([GROUP])",
        ["operations/test_health.py::test_calls_that_hang_elsewhere_are_not_taken_for_the_log"],
    ),
    Mutation(
        "A hub whose reads of the log hang serves no stream, although the probe's thread can read.",
        "sse_app/operations/health.py",
        'found["hub"] = "ok" if age <= check_interval() + LATE_SECONDS else "timeout"',
        'found["hub"] = "ok"',
        ["operations/test_health.py::test_a_hub_that_hangs_is_told_although_the_log_answers"],
    ),
    Mutation(
        "A hub would seem to hang soon after its start.",
        "sse_app/delivery/feed.py",
        "        await self._healer.check()\n        self.checked_at = time.monotonic()\n",
        "        await self._healer.check()\n",
        ["operations/test_health.py::test_a_hub_that_hangs_is_told_although_the_log_answers"],
    ),
    Mutation(
        "gevent and eventlet make threads greenlets; a loop there lets the ORM refuse all calls.",
        "sse_app/runtime/native.py",
        "    if has_greenlets():\n        _native",
        "    if False:\n        _native",
        [
            "publishing/test_greenlets.py::"
            "test_greenlets_publish_and_use_the_database_with_a_layer_in_memory"
        ],
    ),
    Mutation(
        "A thread of eventlet can't continue a greenlet of another thread.",
        "sse_app/runtime/native.py",
        "return PolledCondition() if has_greenlets() else threading.Condition()",
        "return threading.Condition()",
        [
            "publishing/test_greenlets.py::"
            "test_greenlets_publish_and_use_the_database_with_a_layer_on_redis"
        ],
    ),
    Mutation(
        "A process waits at its end for a greenlet of a thread of gevent, which looked up a name.",
        "sse_app/runtime/native.py",
        "        if has_greenlets():\n            loop",
        "        if False:\n            loop",
        [
            "publishing/test_greenlets.py::"
            "test_greenlets_publish_and_use_the_database_with_a_layer_on_redis"
        ],
    ),
    Mutation(
        "A publisher would wait without end for a loop that can't be made.",
        "sse_app/runtime/native.py",
        "            started.append(error)\n",
        "",
        ["publishing/test_greenlets.py::test_the_error_of_a_loop_that_can_not_be_made_is_raised"],
    ),
    Mutation(
        "Channels' own consumer answers nothing while its handler runs, a disconnect included.",
        "sse_app/consumers.py",
        "    async def __call__(\n",
        "    async def called(\n",
        ["doors/test_asgi.py::test_fixed_groups_are_open_to_whoever_reaches_the_consumer"],
    ),
    Mutation(
        "A hub without a stream is closed by nobody: a request that fails must not make the hub.",
        "sse_app/consumers.py",
        "transport=self.make_transport(receive),",
        "transport=(get_hub(), self.make_transport(receive))[1],",
        ["doors/test_asgi.py::test_what_fails_before_there_is_a_stream_gives_its_places_back"],
    ),
    Mutation(
        "A request that fails before it has a stream would keep its slots for ever.",
        "sse_app/consumers.py",
        "            slots.release()\n            raise\n",
        "            raise\n",
        ["doors/test_asgi.py::test_what_fails_before_there_is_a_stream_gives_its_places_back"],
    ),
    Mutation(
        "Work in a thread leaves a database connection open there, which idle streams would hold.",
        "sse_app/runtime/threads.py",
        "        kept.close()\n",
        "",
        [
            "eventlog/test_postgresql.py::test_idle_streams_hold_no_database_connection",
            "runtime/test_threads.py::test_connections_that_it_opened_are_closed",
        ],
    ),
    Mutation(
        "A receiver of the app that fails would end the stream that it is called for.",
        "sse_app/signals.py",
        "                logger.exception(text, error, extra=log_fields(error=error))\n",
        "                raise\n",
        [
            "runtime/test_callables.py"
            "::test_the_apps_own_receivers_cost_no_task_and_take_nothing_from_the_others"
        ],
    ),
    Mutation(
        "Each call in a thread would open a connection to the database, one for each stream.",
        "sse_app/runtime/connections.py",
        'if self._keep and options["CONN_MAX_AGE"] == 0',
        "if False",
        [
            "runtime/test_connections.py::test_a_thread_keeps_its_connection_without_a_maximum_age",
            "publishing/test_on_loop.py::test_calls_that_follow_each_other_share_a_connection",
            "access/test_visitors.py::test_signed_in_arrivals_share_statements_and_open_no_connections",
        ],
    ),
    Mutation(
        "After a restart of the database each thread's next call would fail.",
        "sse_app/runtime/connections.py",
        ', "CONN_HEALTH_CHECKS": True}',
        "}",
        [
            "runtime/test_connections.py"
            "::test_after_a_restart_of_the_database_the_next_call_succeeds"
        ],
    ),
    Mutation(
        "A thread would write to the SQLite file that a restored backup has replaced.",
        "sse_app/runtime/connections.py",
        "if files != self._files:",
        "if False:",
        [
            "runtime/test_connections.py"
            "::test_a_restored_backup_of_sqlite_is_what_the_next_call_reads"
        ],
    ),
    Mutation(
        "A transaction that a policy left open would hold its locks, and the next call's writes.",
        "sse_app/runtime/connections.py",
        "            _drop(connection)\n",
        "            pass\n",
        ["runtime/test_connections.py::test_a_connection_within_a_transaction_is_replaced"],
    ),
    Mutation(
        "A pool of connections refuses connections that are kept.",
        "sse_app/runtime/connections.py",
        """ and not options["OPTIONS"].get("pool"):""",
        ":",
        ["runtime/test_connections.py::test_a_projects_own_rule_for_connections_is_not_changed"],
    ),
    Mutation(
        "A test's database could not be deleted while a thread keeps a connection to it.",
        "sse_app/runtime/threads.py",
        "keep=not is_testing()",
        "keep=True",
        ["runtime/test_connections.py::test_a_tests_connections_are_closed_after_each_call"],
    ),
    Mutation(
        "Visitors that arrive during a read would each be read alone.",
        "sse_app/runtime/batches.py",
        "count = min(len(self._waiting), PORTION)",
        "count = min(len(self._waiting), 1)",
        [
            "runtime/test_batches.py"
            "::test_callers_of_one_turn_and_callers_during_a_read_share_a_read",
            "access/test_visitors.py::test_signed_in_arrivals_share_statements_and_open_no_connections",
        ],
    ),
    Mutation(
        "A wrapper of a database that a stream's task looks at is kept as long as the stream.",
        "sse_app/access/visitors.py",
        'one["ENGINE"].startswith(DJANGO) for one in connections.settings.values()',
        "_is_of_django(type(one)) for one in connections.all()",
        [
            "access/test_visitors.py::test_signed_in_arrivals_share_statements_and_open_no_connections"
        ],
    ),
    Mutation(
        "A router that asks for the tenant would get the tenant of no visitor.",
        "sse_app/access/visitors.py",
        "if django_settings.DATABASE_ROUTERS or not issubclass(kind, SessionBase):",
        "if False:",
        ["access/test_visitors.py::test_code_of_a_project_is_called_for_one_visitor_alone"],
    ),
    Mutation(
        "A backend that finds its users in its own way would not be asked.",
        "sse_app/access/visitors.py",
        "or not _is_plain(backend):",
        "or False:",
        ["access/test_visitors.py::test_a_visitor_that_fails_is_an_error_of_its_own"],
    ),
    Mutation(
        "All later visitors would wait for a read that hangs.",
        "sse_app/runtime/batches.py",
        "loop.call_later(PATIENCE_SECONDS, self._begin)",
        "loop.call_later(600, self._begin)",
        ["runtime/test_batches.py::test_a_read_that_hangs_does_not_hold_the_next_one"],
    ),
    Mutation(
        "An event encoded for each of its readers costs more than all the rest.",
        "sse_app/delivery/subscriptions.py",
        "(known := encoded.get(kind := self.kind)) is None",
        "(known := None) is None",
        ["delivery/test_hub.py::test_an_event_is_encoded_once_for_all_readers_of_a_kind"],
    ),
    Mutation(
        "The in-memory layer wakes a receiver from its own event loop only.",
        "sse_app/publishing/outbox.py",
        "if _running_loop() is self.loop:",
        "if True:",
        ["delivery/test_hub.py::test_a_plain_thread_publishes_by_way_of_the_hubs_loop"],
    ),
    Mutation(
        "On the layer in memory, tasks and copies cost more than the delivery of an event.",
        "sse_app/publishing/outbox.py",
        "        if self._send_at_once():",
        "        if False:",
        ["publishing/test_outbox.py::test_on_the_layer_in_memory_an_event_needs_no_task"],
    ),
    Mutation(
        "What a signal handler publishes while its thread sends would wait for the next event.",
        "sse_app/publishing/outbox.py",
        "            self._sending = bool(self._waiting)",
        "            self._sending = False",
        [
            "publishing/test_outbox.py::test_what_a_signal_handler_publishes_during_a_send_is_sent_too"
        ],
    ),
    Mutation(
        "The garbage collector would search the objects of all new streams, and find nothing.",
        "sse_app/asgi.py",
        "            collect_rarely()\n",
        "",
        ["runtime/test_garbage.py::test_a_server_process_collects_rarely"],
    ),
    Mutation(
        "A project may have set the thresholds of the garbage collector for its own reasons.",
        "sse_app/runtime/garbage.py",
        "    if first in DEFAULTS:",
        "    if True:",
        ["runtime/test_garbage.py::test_a_threshold_of_the_project_stays"],
    ),
    Mutation(
        "A loop of its own for sending would not wake the receiver where streams are served.",
        "sse_app/publishing/outbox.py",
        "            if not _hub_outboxes[-1].loop.is_closed():",
        "            if False:",
        ["delivery/test_hub.py::test_what_a_thread_publishes_is_sent_on_the_hubs_loop"],
    ),
    Mutation(
        "A layer drops the message that is one too many: the next one shows the gap.",
        "sse_app/delivery/hub.py",
        """\
        topic.offer(event)
        if topic.needs_healing:
            self._healer.soon(event.group)
""",
        "        topic.offer(event)\n",
        ["delivery/test_hub.py::test_a_jump_is_healed_without_waiting_for_the_check"],
    ),
    Mutation(
        "Behind the last message there is no gap: only the heads of the log show that it is lost.",
        "sse_app/delivery/hub.py",
        '            "check": lambda: every(check_interval, self._check_unless_watched),\n',
        "",
        ["eventlog/test_postgresql.py::test_the_log_carries_events_between_processes_by_the_check"],
    ),
    Mutation(
        "A log that went back has no newer change: without turns, its readers would stay deaf.",
        "sse_app/delivery/hub.py",
        "        self._healer.log_changed()\n",
        "",
        ["delivery/test_resume.py::test_a_restored_older_log_is_a_new_epoch_and_no_deafness"],
    ),
    Mutation(
        "In a file that has not changed, no head has.",
        "sse_app/delivery/hub.py",
        "watched and self._healer.is_settled and self._observed_until < now < self._net_at:",
        "False:",
        [
            "operations/test_idle.py::"
            "test_an_idle_process_asks_the_database_less_than_once_in_five_seconds"
        ],
    ),
    Mutation(
        "After a change, each head is compared once: the log may have gone back and grown again.",
        "sse_app/delivery/hub.py",
        "watched and self._healer.is_settled and",
        "watched and",
        ["operations/test_idle.py::test_a_watched_log_is_checked_until_each_topic_had_its_turn"],
    ),
    Mutation(
        "Where the file does not change, a hub that hangs would look healthy.",
        "sse_app/operations/health.py",
        "        hub.observe_checks()\n",
        "        pass\n",
        ["operations/test_health.py::test_a_hub_that_hangs_is_told_although_the_log_answers"],
    ),
    Mutation(
        "While the file can't be read, nobody knows whether it changes.",
        "sse_app/eventlog/database_sqlite.py",
        "            changed()\n            stop.wait(RETRY_SECONDS)\n",
        "            stop.wait(RETRY_SECONDS)\n",
        ["operations/test_idle.py::test_a_file_that_cannot_be_watched_counts_as_changed"],
    ),
    Mutation(
        "A reader that joins before the control group is read misses a revocation.",
        "sse_app/delivery/hub.py",
        """\
                await self._starting.result("services", self._start_services)
""",
        "                self._starting.result('services', self._start_services).close()\n",
        ["runtime/test_services.py::test_no_reader_joins_a_hub_before_its_services_have_started"],
    ),
    Mutation(
        "A service that could not start is missing for as long as the hub lives.",
        "sse_app/delivery/hub.py",
        """\
            service = self._unstarted[0]
            await service.start(self)
            del self._unstarted[0]
""",
        """\
            service = self._unstarted.pop(0)
            await service.start(self)
""",
        [
            "runtime/test_services.py::"
            "test_a_service_that_can_not_start_fails_the_join_and_is_started_by_the_next"
        ],
    ),
    Mutation(
        "Nobody ends the tasks that a closed hub begins.",
        "sse_app/delivery/hub.py",
        "        if self._closing is not None:\n            raise RuntimeError(",
        "        if False:\n            raise RuntimeError(",
        ["runtime/test_services.py::test_a_hub_that_has_closed_takes_nobody_in"],
    ),
    Mutation(
        "A closed hub has closed its services, so none may start there.",
        "sse_app/delivery/hub.py",
        "while self._unstarted and self._closing is None:",
        "while self._unstarted:",
        ["runtime/test_services.py::test_a_hub_that_has_closed_takes_nobody_in"],
    ),
    Mutation(
        "What a service took for a hub is given back with the hub.",
        "sse_app/delivery/hub.py",
        "            service.close()\n",
        "            pass\n",
        ["runtime/test_services.py::test_no_reader_joins_a_hub_before_its_services_have_started"],
    ),
    Mutation(
        "A hub may be closed while it has readers, and its groups would stay on the layer.",
        "sse_app/delivery/hub.py",
        "        await self.mailbox.memberships.leave_all()\n",
        "",
        [
            "delivery/test_memberships.py::test_a_hub_that_is_closed_with_readers_leaves_their_groups"
        ],
    ),
    Mutation(
        "Where Redis is slow or far, the layer's messages overtake each other.",
        "sse_app/delivery/topics.py",
        "elif self.position is not None and follows(event, self.position):",
        "elif self.position is not None and not self._is_repeat(position):",
        [
            "delivery/test_cohorts.py::test_what_the_layer_reorders_and_doubles_is_put_right_for_members"
        ],
    ),
    Mutation(
        "A layer may deliver a message twice, and the log gives again what the layer brought.",
        "sse_app/delivery/topics.py",
        "        elif self._is_repeat(position):\n",
        "        elif self._is_repeat(position):\n            self._fan_out(event, position)\n",
        [
            "delivery/test_cohorts.py::test_what_the_layer_reorders_and_doubles_is_put_right_for_members"
        ],
    ),
    Mutation(
        "receive() raises when Redis goes, and who does not ask again is deaf.",
        "sse_app/delivery/mailbox.py",
        "            pause = min(pause * 2, RETRY_SECONDS[1])\n",
        "            return\n",
        ["delivery/test_hub.py::test_a_receive_loop_that_fails_begins_again_and_misses_nothing"],
    ),
    Mutation(
        "What was sent meanwhile is lost without a word.",
        "sse_app/delivery/mailbox.py",
        "        await self._reopened()\n",
        "",
        ["delivery/test_hub.py::test_a_receive_loop_that_fails_begins_again_and_misses_nothing"],
    ),
    Mutation(
        "A channel is a member of no group before it is open.",
        "sse_app/delivery/mailbox.py",
        "        await self.memberships.join_all()\n        await self._reopened()\n",
        "        await self._reopened()\n",
        [
            "delivery/test_mailbox.py::test_a_group_joined_while_redis_is_away_is_joined_when_it_is_back"
        ],
    ),
    Mutation(
        "What anybody may put on the layer can't be read as a message of the app's.",
        "sse_app/delivery/mailbox.py",
        "except (TypeError, ValueError, AttributeError) as error:",
        "except ZeroDivisionError as error:",
        [
            "delivery/test_hub.py::test_a_malformed_message_is_skipped_and_the_next_one_arrives",
            "servers/test_injection.py::test_what_is_no_message_of_the_apps_is_logged_skipped_and_never_"
            "unpickled",
        ],
    ),
    Mutation(
        "A layer that hangs would hold up every reader who comes.",
        "sse_app/delivery/memberships.py",
        "async with asyncio.timeout(WAIT_SECONDS):\n                    await tried",
        "async with asyncio.timeout(None):\n                    await tried",
        [
            "delivery/test_hub.py::test_while_the_layer_hangs_readers_begin_by_the_log_and_are_joined_later"
        ],
    ),
    Mutation(
        "Membership of a group lapses after a day.",
        "sse_app/delivery/hub.py",
        "every(lambda: REJOIN_SECONDS, self.mailbox.rejoin)",
        "every(lambda: 86400.0, self.mailbox.rejoin)",
        [
            "delivery/test_hub.py::test_groups_are_joined_again_before_their_membership_lapses",
            "delivery/test_memberships.py::test_memberships_that_lapsed_are_joined_again",
        ],
    ),
    Mutation(
        "The mailbox's own groups, also the one of all groups in memory, lapse as others do.",
        "sse_app/delivery/mailbox.py",
        "        await self._join_own()\n        await self.memberships.join_all()\n",
        "        await self.memberships.join_all()\n",
        ["delivery/test_memberships.py::test_memberships_that_lapsed_are_joined_again"],
    ),
    Mutation(
        "The in-memory layer removes a channel with an expired message from all groups.",
        "sse_app/delivery/mailbox.py",
        "                await self._join_own()\n            else",
        "                pass\n            else",
        [
            "delivery/test_memberships.py::test_in_memory_a_channel_that_the_layer_removed_is_joined_again"
        ],
    ),
    Mutation(
        "The in-memory layer visits all of its groups for each message.",
        "sse_app/delivery/memberships.py",
        "        if is_in_memory():\n            return\n        layer",
        "        layer",
        ["delivery/test_memberships.py::test_in_memory_five_thousand_groups_are_one_layer_group"],
    ),
    Mutation(
        "Each message of the in-memory layer is a task, a queue and a clean-up.",
        "sse_app/publishing/outbox.py",
        "            return layer_calls.sends(layer, {shared_group(tag): shared})\n",
        "            group = shared_group(tag)\n"
        "            return [\n"
        "                call for event in events for call in\n"
        "                layer_calls.sends(layer, {group: shared | {'events': [event]}})\n"
        "            ]\n",
        ["delivery/test_memberships.py::test_in_memory_the_events_of_many_groups_are_one_message"],
    ),
    Mutation(
        "Each join of channels_redis is a command under the lock that a publish needs.",
        "sse_app/runtime/layer_calls.py",
        'return CALLS if _private(layer, "group_add", "group_discard") is None else PORTION',
        "return CALLS",
        [
            "delivery/test_memberships.py::test_two_thousand_groups_that_start_together_are_joined_and_"
            "left_by_few_commands"
        ],
    ),
    Mutation(
        "An event would wait behind the one command that joins thousands of groups.",
        "sse_app/runtime/layer_calls.py",
        "PORTION: Final = 200",
        "PORTION: Final = 4000",
        [
            "delivery/test_memberships.py::test_an_event_published_while_thousands_of_groups_join_is_"
            "sent_between_them"
        ],
    ),
    Mutation(
        "A round trip for each group of a batch limits the events that a process sends a second.",
        "sse_app/runtime/layer_calls.py",
        'own = _private(layer, "group_send") if len(messages) > 1 else None',
        "own = None",
        ["delivery/test_memberships.py::test_the_events_of_many_groups_are_one_round_trip"],
    ),
    Mutation(
        "A subclass of the pub/sub layer may encrypt or count in its own methods.",
        "sse_app/runtime/layer_calls.py",
        "hasattr(type(layer), method) for",
        "False for",
        [
            "delivery/test_memberships.py::test_a_layer_with_methods_or_parts_of_its_own_is_called_by_the_"
            "public_interface"
        ],
    ),
    Mutation(
        "Another version of channels_redis may have other private parts.",
        "sse_app/runtime/layer_calls.py",
        "return own if is_known else None",
        "return own",
        [
            "delivery/test_memberships.py::test_a_layer_with_methods_or_parts_of_its_own_is_called_by_the_"
            "public_interface"
        ],
    ),
    Mutation(
        "A page that loads again leaves its group and joins the group a moment later.",
        "sse_app/delivery/memberships.py",
        "self._change_later(LEAVE_SECONDS)",
        "self._change_later(0.0)",
        [
            "delivery/test_memberships.py::test_a_reader_that_comes_soon_after_the_last_one_costs_no_command"
        ],
    ),
    Mutation(
        "redis-py subscribes again to a channel whose end Redis has not confirmed.",
        "sse_app/runtime/layer_calls.py",
        "                _drop(shard, names)\n",
        "                pass\n",
        [
            "delivery/test_memberships.py::test_a_leave_that_redis_never_confirmed_is_not_undone_by_the_"
            "next_connection"
        ],
    ),
    Mutation(
        "To validate an event that nobody reads costs as much as to deliver it.",
        "sse_app/delivery/mailbox.py",
        "        if not any(group in wanted for group in groups):\n",
        "        if False:\n",
        [
            "delivery/test_memberships.py::test_events_of_a_group_without_a_reader_are_dropped_before_they_"
            "are_validated"
        ],
    ),
    Mutation(
        "async_to_sync() makes a loop, and with Redis a connection, for every publish.",
        "sse_app/publishing/outbox.py",
        "        if _background is None:\n",
        "        if True:\n",
        ["publishing/test_outbox.py::test_two_hundred_publishes_from_sync_code_use_one_connection"],
    ),
    Mutation(
        "In a forked child the parent's loop does not run.",
        "sse_app/publishing/outbox.py",
        "at_fork(_reset_after_fork)\n",
        "",
        [
            "publishing/test_outbox.py::test_after_a_fork_parent_and_child_deliver_by_a_connection_each"
        ],
    ),
    Mutation(
        "Two sites on one Redis give groups the same names, also the one that ends streams.",
        "sse_app/protocol/groups.py",
        "{GROUP_PREFIX}{tag}.{name}",
        "{GROUP_PREFIX}{name}",
        ["servers/test_sites.py::test_events_counts_disconnects_and_presence_stay_apart"],
    ),
    Mutation(
        "Two sites on one Redis give groups of the log the same keys.",
        "sse_app/eventlog/redis.py",
        'prefix = f"sse_app.{site_tag()}"',
        'prefix = "sse_app"',
        [
            "servers/test_sites.py::test_the_keys_of_log_and_limits_have_the_tag_unless_a_prefix_is_given"
        ],
    ),
    Mutation(
        "User 1 of one site is not user 1 of the other, and has limits of its own.",
        "sse_app/access/limits_redis.py",
        ".sse_app.{site_tag()}",
        ".sse_app",
        [
            "servers/test_sites.py::test_the_keys_of_log_and_limits_have_the_tag_unless_a_prefix_is_given"
        ],
    ),
    Mutation(
        "While SECRET_KEY is rotated, some processes have the new key and some the old one.",
        "sse_app/conf.py",
        "*django_settings.SECRET_KEY_FALLBACKS][-1]",
        "*django_settings.SECRET_KEY_FALLBACKS][0]",
        ["servers/test_sites.py::test_the_tag_is_of_the_oldest_secret_key"],
    ),
    Mutation(
        "A worker with another SECRET_KEY publishes to nobody, and nothing fails.",
        "sse_app/operations/doctor.py",
        '        if process.report.get("site", tag) != tag\n',
        "        if False\n",
        ["servers/test_sites.py::test_the_doctor_names_the_tag_and_processes_that_have_another"],
    ),
    Mutation(
        "The doctor reads the command line of an unrelated process, whose number is that of "
        "a server on another machine.",
        "sse_app/operations/doctor.py",
        " if process.host == HOST]",
        "]",
        [
            "operations/test_doctor.py::test_a_process_of_another_machine_is_not_examined_by_its_number_here"
        ],
    ),
    Mutation(
        "The doctor says of a good log, each time but the first, that its events do not follow "
        "each other.",
        "sse_app/operations/doctor.py",
        "(stored.offset or 1) - 1, stored.previous)",
        "(stored.offset or 1) - 1, stored.mark)",
        ["operations/test_doctor.py::test_a_log_that_gives_back_something_else_is_an_error"],
    ),
    Mutation(
        "The doctor warns a newcomer of a backlog that matters in production only.",
        "sse_app/operations/doctor.py",
        '"warning" if deploy or not django_settings.DEBUG else "note"',
        '"warning"',
        ["handbook/test_tutorial.py::test_the_doctor_finds_nothing"],
    ),
    Mutation(
        "When the last fallback key is removed, the tag changes.",
        "sse_app/checks/deployment.py",
        "    if settings().SITE_TAG is not None or not fallbacks:\n        return\n",
        "    if True:\n        return\n",
        ["doors/test_deploy_checks.py::test_a_site_tag_that_goes_with_a_fallback_key_is_named"],
    ),
    Mutation(
        "A command that ends would take what still waits for the layer with it.",
        "sse_app/publishing/outbox.py",
        "            Finalize(None, _background.flush, args=(SEND_SECONDS,), exitpriority=0)\n",
        "",
        ["publishing/test_outbox.py::test_what_waits_when_a_process_ends_is_sent"],
    ),
    Mutation(
        "A layer that takes nothing must not cost memory without end.",
        "sse_app/publishing/outbox.py",
        "deque(maxlen=WAITING_EVENTS)",
        "deque()",
        [
            "publishing/test_outbox.py::test_a_layer_that_hangs_from_the_start_costs_one_wait_and_bounded_memory"
        ],
    ),
    Mutation(
        "A publisher that is quicker than the layer would lose what is too much for it.",
        "sse_app/publishing/outbox.py",
        "        outbox.wait_for_room()\n",
        "        pass\n",
        ["publishing/test_outbox.py::test_a_layer_that_hangs_for_a_while_costs_one_wait_each_time"],
    ),
    Mutation(
        "What fails in the layer is in the log, so no publisher is to hear of it.",
        "sse_app/publishing/outbox.py",
        "    except Exception as error:\n        _refused(groups, error)\n",
        "    except ZeroDivisionError as error:\n        _refused(groups, error)\n",
        ["publishing/test_outbox.py::test_what_fails_in_the_layer_reaches_no_publisher"],
    ),
    Mutation(
        "A task of the hub that has died must not leave its streams waiting for ever.",
        "sse_app/runtime/services.py",
        "        self._after(pause, self._again, cause)\n",
        "",
        [
            "runtime/test_services.py::test_a_service_begins_again_whatever_ended_it",
            "runtime/test_services.py::test_health_names_the_service_of_a_hub_that_is_down",
        ],
    ),
    Mutation(
        "A service that dies each time it begins would fill the log and the processor.",
        "sse_app/runtime/services.py",
        "min(self._pause * 2, PAUSE_SECONDS[1])",
        "self._pause",
        [
            "runtime/test_services.py::test_one_that_ends_each_time_is_down_all_the_while_and_said_once_a_pause"
        ],
    ),
    Mutation(
        "A service that dies each time it begins is not running in between.",
        "sse_app/runtime/services.py",
        "        self._after(self._pause, self._recovered)\n",
        "        self._recovered()\n",
        [
            "runtime/test_services.py::test_one_that_ends_each_time_is_down_all_the_while_and_said_once_a_pause"
        ],
    ),
    Mutation(
        "A policy that catches its cancellation would hold the last stream's end for ever.",
        "sse_app/runtime/services.py",
        "                task.cancel()\n",
        "                pass\n",
        [
            "runtime/test_services.py::"
            "test_a_service_in_which_a_policy_catches_the_cancellation_ends_all_the_same"
        ],
    ),
    Mutation(
        "A task keeps its event loop, and a server without ASGI has a loop for each request.",
        "sse_app/runtime/services.py",
        "            del self._running[key]\n",
        "            pass\n",
        [
            "runtime/test_services.py::test_no_event_loop_is_kept_once_it_has_closed",
            "runtime/test_services.py::"
            "test_a_task_is_shared_until_it_ends_and_outlives_a_caller_who_leaves",
        ],
    ),
    Mutation(
        "The hub's tasks would keep the first visitor's language, tenant and trace.",
        "sse_app/runtime/services.py",
        "spawn_in(Context(), work, *args, **kwargs)",
        "asyncio.get_running_loop().create_task(work(*args, **kwargs))",
        ["runtime/test_services.py::test_nothing_of_the_first_visitor_stays_with_the_hub"],
    ),
    Mutation(
        "A load balancer must not send clients to a process that looks after none of their rights.",
        "sse_app/operations/health.py",
        "not Hub.draining and not down and",
        "not Hub.draining and",
        ["runtime/test_services.py::test_health_names_the_service_of_a_hub_that_is_down"],
    ),
    Mutation(
        "The first reader of a group may leave while it starts, and others wait for the same.",
        "sse_app/delivery/starts.py",
        "await asyncio.shield(start)",
        "await start",
        ["delivery/test_hub.py::test_readers_who_wait_for_the_same_start_outlive_the_first_one"],
    ),
    Mutation(
        "Each read needs a connection, and redis-py refuses the 101st at once.",
        "sse_app/delivery/starts.py",
        "        if len(self._new) == 1:\n",
        "        self._new = [group]\n        if True:\n",
        ["delivery/test_starts.py::test_groups_that_start_in_one_turn_are_read_by_one_call"],
    ),
    Mutation(
        "One read of all groups that start may hold up the log and the event loop.",
        "sse_app/delivery/starts.py",
        "groups, self._joined = self._joined[:PORTION], self._joined[PORTION:]",
        "groups, self._joined = self._joined, []",
        ["delivery/test_starts.py::test_very_many_groups_are_read_in_portions"],
    ),
    Mutation(
        "A client that is sent away stays away for 15 to 60 s, and most failures pass at once.",
        "sse_app/delivery/starts.py",
        "            if loop.time() + pause > until:\n                raise\n",
        "            raise\n",
        ["delivery/test_starts.py::test_a_read_that_fails_for_a_moment_sends_nobody_away"],
    ),
    Mutation(
        "asyncio logs a traceback for each failure that no reader awaited.",
        "sse_app/delivery/starts.py",
        "                start.exception()",
        "                pass",
        [
            "delivery/test_starts.py::test_where_the_log_stays_away_each_start_fails_and_no_failure_is_left_"
            "unseen"
        ],
    ),
    Mutation(
        "A foreign log may raise CancelledError, and the group's readers would wait for ever.",
        "sse_app/delivery/starts.py",
        "                    with contained():\n                        heads = ",
        "                    if True:\n                        heads = ",
        [
            "delivery/test_starts.py::test_whatever_a_log_raises_fails_the_start_and_the_next_one_reads_again"
        ],
    ),
    Mutation(
        "A foreign log may leave a group out of its answer, and the group's readers would wait.",
        "sse_app/delivery/starts.py",
        """\
                    for group in groups:
                        self._set_position(group, heads[group])
                except Exception as error:
                    self._fail(groups, error)
""",
        """\
                except Exception as error:
                    self._fail(groups, error)
                else:
                    for group in groups:
                        self._set_position(group, heads[group])
""",
        ["delivery/test_starts.py::test_a_log_that_leaves_a_group_out_fails_its_start"],
    ),
    Mutation(
        "A join that waited for its turn may be for readers that have left by then.",
        "sse_app/delivery/memberships.py",
        "            if group in wanted and not self.known.get(group):\n",
        "            if not self.known.get(group):\n",
        [
            "delivery/test_starts.py::test_joins_that_waited_until_their_readers_had_left_are_not_made"
        ],
    ),
    Mutation(
        "channels_redis' core layer takes a connection for each join, and refuses the 101st.",
        "sse_app/runtime/layer_calls.py",
        "CALLS: Final = 32",
        "CALLS: Final = 10_000",
        ["delivery/test_starts.py::test_hundreds_of_groups_at_once_are_all_joined_on_the_layer"],
    ),
    Mutation(
        "A command whose caller is cancelled may leave its answer to the connection's next user.",
        "sse_app/runtime/services.py",
        "return await asyncio.shield(task)",
        "return await task",
        ["delivery/test_hub.py::test_a_reader_that_leaves_takes_the_read_from_no_other"],
    ),
    Mutation(
        "The last to leave a group may be followed at once by somebody who comes.",
        "sse_app/delivery/memberships.py",
        "        while self._changed:\n",
        "        if self._changed:\n",
        ["delivery/test_hub.py::test_a_group_that_is_left_slowly_and_joined_again_stays_joined"],
    ),
    Mutation(
        "A join that failed leaves a group deaf until the next rejoin, an hour later.",
        "sse_app/delivery/memberships.py",
        "                self._later.update(dict.fromkeys([*groups[first + size :], *portion]))\n",
        "",
        ["delivery/test_mailbox.py::test_a_join_that_fails_once_is_tried_again"],
    ),
    Mutation(
        "A stream that is cancelled while it leaves must have left its groups.",
        "sse_app/delivery/hub.py",
        "            self.mailbox.memberships.leave(empty)\n",
        "            await asyncio.sleep(0)\n            self.mailbox.memberships.leave(empty)\n",
        ["delivery/test_mailbox.py::test_a_cancelled_leave_reaches_the_layer"],
    ),
    Mutation(
        "A connection that a firewall has forgotten gives no error, so a silent layer is tested.",
        "sse_app/delivery/mailbox.py",
        "                await self._test(channel_layer())\n",
        "                pass\n",
        ["delivery/test_mailbox.py::test_a_layer_that_stays_silent_is_connected_to_again"],
    ),
    Mutation(
        "The pub/sub layer subscribes on its old connection again, so that must be closed.",
        "sse_app/runtime/layer_calls.py",
        "await pool.disconnect(inuse_connections=True)",
        "pass",
        ["delivery/test_mailbox.py::test_other_users_of_the_layer_keep_their_channels"],
    ),
    Mutation(
        "Redis may have done a command that failed: the next join must subscribe again.",
        "sse_app/runtime/layer_calls.py",
        "            shard._subscribed_to.difference_update(names)\n            shard._ensure",
        "            shard._ensure",
        [
            "delivery/test_memberships.py::test_a_group_whose_leave_failed_after_it_was_done_is_joined_again"
        ],
    ),
    Mutation(
        "What a closed hub could not leave costs Redis a subscription each.",
        "sse_app/delivery/mailbox.py",
        "            await layer_calls.forget(target, self._channel, [*own, *left])\n",
        "            pass\n",
        ["delivery/test_mailbox.py::test_hubs_that_close_without_redis_leave_nothing_behind"],
    ),
    Mutation(
        "A probe that gets no answer is followed by the next one, in the same mailbox.",
        "sse_app/operations/health.py",
        "    own = _mailboxes.get(loop)\n",
        "    own = None\n",
        ["operations/test_health.py::test_probes_that_get_no_answer_leave_nothing_behind"],
    ),
    Mutation(
        "A process without descriptors for an event loop has stored the event all the same.",
        "sse_app/publishing/outbox.py",
        "    except (OSError, RuntimeError) as error:  # No descriptor",
        "    except ZeroDivisionError as error:  # No descriptor",
        [
            "publishing/test_descriptors.py::test_without_descriptors_a_view_publishes_or_fails_at_once"
        ],
    ),
    Mutation(
        "A failure that repeats every half second would fill the disk.",
        "sse_app/runtime/rare_logs.py",
        "        if now < self._next.get(key, 0.0):\n",
        "        if False:\n",
        ["publishing/test_descriptors.py::test_without_descriptors_the_log_has_few_lines"],
    ),
    Mutation(
        "One reader that fails would take the event from those after it.",
        "sse_app/delivery/topics.py",
        "            try:\n"
        "                reached += subscription.offer(event, position, encoded)\n"
        "            except Exception:\n                _end(subscription)\n",
        "            reached += subscription.offer(event, position, encoded)\n",
        ["delivery/test_hub.py::test_a_reader_that_fails_is_closed_alone"],
    ),
)
