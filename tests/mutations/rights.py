"""Who may listen, until when, and to whom a reply goes."""

from __future__ import annotations

from ..mutations import Mutation

MUTATIONS = (
    Mutation(
        "A connection id that is not the user's own would have replies sent to somebody else.",
        "sse_app/protocol/replies.py",
        'return Signer(salt=f"sse_app.connection {user}")',
        'return Signer(salt="sse_app.connection")',
        [
            "publishing/test_replies.py::test_a_connection_id_is_the_users_own",
            "publishing/test_replies.py::test_nobody_can_have_a_reply_sent_to_somebody_else",
        ],
    ),
    Mutation(
        "A revocation that project code published would end the streams of everybody.",
        "sse_app/protocol/events.py",
        "cls.of_app(validate_full(group), validate_published(name), data, **fields)",
        "cls.of_app(group, validate_published(name), data, **fields)",
        [
            "publishing/test_publishing.py::test_an_invalid_or_reserved_group_or_event_is_refused_and_shown",
            "protocol/test_events.py::test_the_control_group_is_the_apps_own",
        ],
    ),
    Mutation(
        "A token for all events, or a handler that passes a page's event on, would forge presence.",
        "sse_app/protocol/events.py",
        "cls.of_app(validate_full(group), validate_published(name), data, **fields)",
        "cls.of_app(validate_full(group), validate_name(name), data, **fields)",
        [
            "publishing/test_publishing.py::test_an_invalid_or_reserved_group_or_event_is_refused_and_shown",
            "doors/test_stream_admin.py::test_an_event_that_can_not_be_published_is_not_sent_again",
        ],
    ),
    Mutation(
        "A page that sends a reserved name up is told, before a handler fails on it.",
        "sse_app/views/bodies.py",
        'validate_published(body.get("event"))',
        'body.get("event")',
        [
            "publishing/test_inbox.py::test_a_body_that_is_no_message_is_400",
            "views/test_publish_view.py::test_no_token_publishes_what_the_app_alone_publishes",
        ],
    ),
    Mutation(
        "The id of a stream is no secret: it stands in logs and in the admin.",
        "sse_app/protocol/replies.py",
        "        return _signer(user).unsign(connection)\n",
        '        return connection.partition(":")[0]\n',
        [
            "publishing/test_replies.py::test_a_connection_id_is_the_users_own",
            "publishing/test_replies.py::test_nobody_can_have_a_reply_sent_to_somebody_else",
        ],
    ),
    Mutation(
        "A tab's name goes out as a line of the stream.",
        "sse_app/views/send.py",
        '        tab = validate_tab(tab) if tab != "" else ""\n',
        '        tab = str(tab or "")\n',
        ["publishing/test_replies.py::test_a_tab_is_named_on_the_wire_and_must_be_a_name"],
    ),
    Mutation(
        "Whoever can put a message on the layer could put a line into a stream by it.",
        "sse_app/protocol/replies.py",
        "if not isinstance(reply.stream, str) or (reply.tab and not validate_tab(reply.tab)):",
        "if not isinstance(reply.stream, str):",
        ["publishing/test_replies.py::test_a_malformed_reply_is_logged_and_skipped"],
    ),
    Mutation(
        "A visitor who learns the id of another visitor's tab could hide events in that tab.",
        "sse_app/publishing/senders.py",
        "(stream := stream_of(connection, user)):",
        '(stream := stream_of(connection, user) or connection.partition(":")[0]):',
        [
            "publishing/test_senders.py::test_a_tab_is_named_in_the_event_for_its_own_stream_only",
            "publishing/test_senders.py::test_the_header_names_the_pages_of_the_requests_user",
        ],
    ),
    Mutation(
        "After a reconnect an anonymous visitor has no name, so a tab belongs to nobody.",
        "sse_app/delivery/streams.py",
        "own = full_user_key(stream) if stream.user_key else None",
        "own = full_user_key(stream)",
        ["publishing/test_senders.py::test_an_anonymous_tab_is_named_on_its_own_stream_only"],
    ),
    Mutation(
        "A client without tabs comes back with another stream, and would get its own event then.",
        "sse_app/delivery/subscriptions.py",
        "    elif cursor:\n        sink.passed(cursor)\n",
        "",
        ["publishing/test_senders.py::test_a_stream_without_tabs_gets_no_event_of_its_own"],
    ),
    Mutation(
        "A member of a cohort gets the bytes of all the others, its own event too.",
        "sse_app/delivery/topics.py",
        "                reader.stand_out()\n",
        "                pass\n",
        ["publishing/test_senders.py::test_an_excluded_member_of_a_cohort_leaves_alone"],
    ),
    Mutation(
        "An event that is numbered after the commit is read from its row.",
        "sse_app/eventlog/database_numbering.py",
        ".exclude_stored(excluded)",
        "",
        ["eventlog/test_eventlog.py::test_a_staged_event_keeps_the_pages_that_it_excludes"],
    ),
    Mutation(
        "The mark of an event in Redis is the first part of what comes with the event.",
        "sse_app/eventlog/redis_scripts.py",
        "local own, at = string.sub(ARGV[i + 2], 1, 4),",
        "local own, at = ARGV[i + 2],",
        ["eventlog/test_eventlog.py::test_an_event_keeps_the_pages_that_it_excludes"],
    ),
    Mutation(
        "A reply goes to the stream that spoke, and not to all that hear of it.",
        "sse_app/access/readers.py",
        "    if subscription is not None:\n        subscription.take_alone(reply)\n",
        "    for reader in readers():\n        reader.stream.subscription.take_alone(reply)\n",
        ["publishing/test_replies.py::test_a_reply_goes_to_the_stream_that_spoke_and_to_no_other"],
    ),
    Mutation(
        "Each hub of a process hears of a reply, and a stream is touched on its own loop only.",
        "sse_app/access/readers.py",
        "if reader is None or reader.loop is not asyncio.get_running_loop():",
        "if reader is None:",
        ["publishing/test_replies.py::test_a_reply_is_taken_on_the_loop_of_its_stream"],
    ),
    Mutation(
        "Ids are random, and two streams could have the same.",
        "sse_app/access/readers.py",
        "        if _readers.setdefault(reader.id, reader) is not reader:\n"
        "            return False\n",
        "        _readers[reader.id] = reader\n",
        ["publishing/test_replies.py::test_two_streams_never_have_one_id"],
    ),
    Mutation(
        "A reader that lags keeps the latest per key, and replies are about different things.",
        "sse_app/protocol/replies.py",
        'return "reply", self.tab, self.name, self.key or ""',
        'return "reply",',
        ["publishing/test_replies.py::test_a_reader_that_lags_gets_the_latest_per_key_and_tab"],
    ),
    Mutation(
        "On the way, too, only the latest event per key is kept.",
        "sse_app/protocol/replies.py",
        "durable=False, key=own)",
        "durable=False)",
        ["publishing/test_replies.py::test_no_reply_takes_the_place_of_another_on_the_way"],
    ),
    Mutation(
        "A revocation of one user must not cost as much as all streams of the process.",
        "sse_app/access/readers.py",
        "            found = _by_user.get(revocation.user)\n",
        "            found = list(_readers.values())\n",
        ["access/test_readers.py::test_a_revocation_looks_only_at_the_readers_that_it_names"],
    ),
    Mutation(
        "The same for the removal of one group.",
        "sse_app/access/readers.py",
        "            found = _by_group.get(revocation.group)\n",
        "            found = list(_readers.values())\n",
        ["access/test_readers.py::test_a_revocation_looks_only_at_the_readers_that_it_names"],
    ),
    Mutation(
        "The same for the end of one session.",
        "sse_app/access/readers.py",
        "            found = _by_session.get(revocation.session)\n",
        "            found = list(_readers.values())\n",
        ["access/test_readers.py::test_a_revocation_looks_only_at_the_readers_that_it_names"],
    ),
    Mutation(
        "The index would keep every reader that ever was.",
        "sse_app/access/index.py",
        "        if not found or found is value:\n            del self._found[key]\n",
        "",
        ["access/test_readers.py::test_of_a_reader_that_left_nothing_is_kept"],
    ),
    Mutation(
        "To find the held readers among all costs as much as all streams of the process.",
        "sse_app/access/revalidation.py",
        "            if not await self.round(held_readers(self._loop)):\n",
        "            if not await self.round([one for one in self._all() if one.held]):\n",
        [
            "access/test_readers.py::test_a_reader_in_doubt_is_asked_for_and_nobody_else_is_looked_at"
        ],
    ),
    Mutation(
        "A reader that is no longer held would be asked for each time another one is.",
        "sse_app/access/readers.py",
        "        _held.difference_update([reader for reader in _held if not reader.held])\n",
        "",
        [
            "access/test_readers.py::test_a_reader_in_doubt_is_asked_for_and_nobody_else_is_looked_at"
        ],
    ),
    Mutation(
        "A thread of the parent may have held the lock when it forked, and holds it for ever.",
        "sse_app/access/readers.py",
        "at_fork(_forget)\n",
        "",
        ["access/test_readers.py::test_a_forked_child_has_no_readers_and_a_free_lock"],
    ),
    Mutation(
        "Who is revoked shows nothing more before anything else has been asked.",
        "sse_app/access/readers.py",
        "            self.stream.mute(reason, groups)\n",
        "            pass\n",
        ["access/test_revocation.py::test_a_revoked_stream_is_cut_before_the_loop_turns"],
    ),
    Mutation(
        "What is in doubt waits until it has been asked.",
        "sse_app/access/readers.py",
        "        self.stream.subscription.hold()\n",
        "        pass\n",
        ["access/test_revocation.py::test_a_stream_in_doubt_is_held_before_anything_is_asked"],
    ),
    Mutation(
        "One that is held is offered nothing.",
        "sse_app/delivery/subscriptions.py",
        "(self.held or not self.sink.ready or not self._is_next(position, event))",
        "(not self.sink.ready or not self._is_next(position, event))",
        ["delivery/test_cohorts.py::test_a_held_or_muted_member_is_offered_nothing_more"],
    ),
    Mutation(
        "One that is held would read on from the log.",
        "sse_app/delivery/subscriptions.py",
        "            if self.held:\n                await self._notify.next()\n"
        "                continue\n",
        "",
        ["delivery/test_cohorts.py::test_a_held_or_muted_member_is_offered_nothing_more"],
    ),
    Mutation(
        "One that is written to with others is not held by them.",
        "sse_app/delivery/subscriptions.py",
        "            self.held = next(_holds)\n        self.stand_out()\n",
        "            self.held = next(_holds)\n",
        ["delivery/test_cohorts.py::test_a_held_or_muted_member_is_offered_nothing_more"],
    ),
    Mutation(
        "Another thread may hold one just as it joins the others.",
        "sse_app/delivery/cohorts.py",
        "        if subscription.held or subscription.close_reason is not None:\n"
        "            self.suspect(subscription)\n",
        "",
        ["delivery/test_cohorts.py::test_one_that_is_held_while_it_joins_is_offered_nothing"],
    ),
    Mutation(
        "One that was held again while it was looked at is not to go on.",
        "sse_app/delivery/subscriptions.py",
        "            if self.held != held:\n                return\n",
        "",
        ["delivery/test_hub.py::test_one_that_was_held_again_meanwhile_is_not_released"],
    ),
    Mutation(
        "A stream that fails to leave its cohort would hold its slots and its hub for ever.",
        "sse_app/delivery/streams.py",
        "        try:\n            self.subscription.leave_cohort()\n",
        "        self.subscription.leave_cohort()\n        try:\n",
        ["access/test_readers.py::test_a_stream_that_fails_to_end_releases_its_slots_once"],
    ),
    Mutation(
        "A slot that is released twice would be one of another stream.",
        "sse_app/delivery/streams.py",
        "            callbacks, self._at_end = self._at_end, ()\n",
        "            callbacks = self._at_end\n",
        ["access/test_readers.py::test_a_stream_that_fails_to_end_releases_its_slots_once"],
    ),
    Mutation(
        "What permitted a stream when it was asked may be over when it opens.",
        "sse_app/consumers.py",
        "            if not readers.enter(reader, since):\n",
        "            if not readers.enter(reader, readers.revocation_count()):\n",
        [
            "doors/test_asgi.py::"
            "test_a_stream_is_not_opened_if_the_hub_reads_of_its_end_while_it_is_admitted"
        ],
    ),
    Mutation(
        "A process without a hub hears nothing of what is revoked while it admits a stream.",
        "sse_app/consumers.py",
        "        if not readers.apply_missed(reader, missed):\n",
        "        if False:\n",
        [
            "access/test_revocation.py::test_a_stream_that_is_being_admitted_learns_of_what_happens_meanwhile"
        ],
    ),
    Mutation(
        "Events that no hub has read may be gone from the log when a hub begins to listen.",
        "sse_app/access/control_group.py",
        "                return [Revocation(review=True)]\n",
        "                return []\n",
        ["runtime/test_services.py::test_only_without_a_hub_the_control_group_is_looked_up"],
    ),
    Mutation(
        "A place in the control group that the hub knows must cost no read and no wait.",
        "sse_app/access/control_group.py",
        "    position = hub.service(ControlGroup).position if hub is not None else None\n",
        "    position = None\n",
        ["runtime/test_services.py::test_only_without_a_hub_the_control_group_is_looked_up"],
    ),
    Mutation(
        "A policy that raises CancelledError or SystemExit would end the task that asked it.",
        "sse_app/runtime/containment.py",
        '        raise CallbackFailed(f"The project\'s code raised {error!r}.") from error\n',
        "        return\n",
        ["runtime/test_callables.py::test_what_is_no_exception_becomes_one"],
    ),
    Mutation(
        "A stream whose server stops is cancelled, and no policy has failed.",
        "sse_app/runtime/containment.py",
        "self._task.cancelling() > self._cancelled",
        "False",
        ["runtime/test_callables.py::test_a_task_that_is_cancelled_from_outside_is_cancelled"],
    ),
    Mutation(
        "Django passes on what a receiver raises that is no Exception, SystemExit for one.",
        "sse_app/signals.py",
        "return [*map(containing, receivers)], [*map(containing_async, async_receivers)]",
        "return receivers, async_receivers",
        ["runtime/test_callables.py::test_a_receiver_of_a_signal_takes_nothing_from_the_others"],
    ),
    Mutation(
        "Streams that were held when the revalidator ended wait for its next look.",
        "sse_app/access/revalidation.py",
        "            self._wake.set()  # They were held before this run began.\n",
        "            pass\n",
        [
            "runtime/test_services.py::test_streams_that_were_held_when_the_revalidator_ended_are_looked_at"
        ],
    ),
    Mutation(
        "What permitted a stream when it was asked may be in doubt when it opens.",
        "sse_app/access/readers.py",
        "    for revocation in missed:\n        reader.revoke(revocation)\n",
        "",
        [
            "access/test_revocation.py::test_a_stream_that_is_being_admitted_learns_of_what_happens_"
            "meanwhile"
        ],
    ),
    Mutation(
        "The layer may lose the word of a revocation, so it is in the log.",
        "sse_app/access/revocations.py",
        "CONTROL_EVENT, fields, durable=durable, key=key)",
        "CONTROL_EVENT, fields, durable=False)",
        [
            "access/test_revocation.py::test_another_process_follows_each_revocation_with_the_next_check_"
            "of_the_log"
        ],
    ),
    Mutation(
        "Who missed revocations can only look at everybody.",
        "sse_app/access/control_group.py",
        "        readers.apply(Revocation(review=True))\n",
        "",
        ["access/test_revocation.py::test_who_may_have_missed_revocations_looks_at_everybody"],
    ),
    Mutation(
        "login() leaves the streams of the session before open, and they are another user's.",
        "sse_app/access/disconnect.py",
        "    user_logged_in.connect(_logged_in",
        "    user_logged_out.connect(_logged_in",
        [
            "access/test_revocation.py::"
            "test_a_login_over_another_users_session_ends_her_streams_in_every_process",
            "access/test_revocation.py::test_the_stream_of_a_stranger_who_signs_in_comes_back_at_once",
        ],
    ),
    Mutation(
        "A user who signs in again keeps the session, and with it the streams.",
        "sse_app/access/disconnect.py",
        "    if key and session is not None and key != session.session_key:\n",
        "    if key and session is not None:\n",
        ["access/test_revocation.py::test_a_second_login_of_the_same_user_ends_nothing"],
    ),
    Mutation(
        "A stranger's session ends with a login, too.",
        "sse_app/access/admission.py",
        "    key = name_of(request.session.session_key)\n",
        '    key = name_of(request.session.session_key) if fingerprint else ""\n',
        [
            "access/test_revocation.py::test_the_stream_of_a_stranger_who_signs_in_comes_back_at_once"
        ],
    ),
    Mutation(
        "A logout takes nothing from what anybody may hear.",
        "sse_app/access/readers.py",
        'return ("auth", private) if needs_user or self.access.token_key else ("session", ())',
        'return ("auth", private)',
        [
            "access/test_revocation.py::"
            "test_what_anybody_may_hear_comes_back_at_once_when_its_user_has_gone"
        ],
    ),
    Mutation(
        "Pages that share a connection could not tell whose groups were lost.",
        "sse_app/access/readers.py",
        'return ("auth", private)',
        'return ("auth", ())',
        [
            "access/test_revocation.py::"
            "test_what_anybody_may_hear_comes_back_at_once_when_its_user_has_gone",
            "browser/test_script_users.py::"
            "test_of_a_shared_connection_only_the_pages_of_the_lost_groups_are_closed",
        ],
    ),
    Mutation(
        "Some changes of rights are told by no signal.",
        "sse_app/access/revalidation.py",
        "                await self.round(self._all())\n",
        "",
        ["access/test_revocation.py::test_what_only_the_database_knows_is_found_by_asking"],
    ),
    Mutation(
        "A session that has ended ends its streams.",
        "sse_app/access/revalidation.py",
        "gone = bool(session) and session not in sessions",
        "gone = False",
        ["access/test_revocation.py::test_what_only_the_database_knows_is_found_by_asking"],
    ),
    Mutation(
        "A policy that failed has decided nothing, so it is asked again.",
        "sse_app/access/readers.py",
        "self._signalled, self._lag_ends_at = self._signalled or signalled, lag_ends_at\n",
        "pass\n",
        ["access/test_fingerprints.py::test_a_policy_that_fails_is_asked_again_for_the_same"],
    ),
    Mutation(
        "A signal may tell of a change while a policy is asked that fails then.",
        "sse_app/access/readers.py",
        "self._signalled, self._lag_ends_at = self._signalled or signalled, lag_ends_at",
        "self._signalled, self._lag_ends_at = signalled, lag_ends_at",
        [
            "access/test_fingerprints.py::"
            "test_a_signal_during_a_policy_that_fails_is_followed_in_the_next_round"
        ],
    ),
    Mutation(
        "A fingerprint does not show everything that a policy looks at.",
        "sse_app/access/readers.py",
        "        if not (changed or signalled or lag_ends_at):\n",
        "        if not (changed or lag_ends_at):\n",
        [
            "access/test_fingerprints.py::"
            "test_what_a_signal_told_is_asked_though_the_fingerprint_is_the_same",
            "access/test_fingerprints.py::"
            "test_over_a_real_server_what_the_fingerprint_does_not_show_is_asked_when_told",
        ],
    ),
    Mutation(
        "No policy knows what a page granted, and saving a user's name changes no right.",
        "sse_app/access/readers.py",
        "        undecided = set(self.stream.groups) - access.granted\n",
        "        undecided = set(self.stream.groups)\n",
        [
            "access/test_fingerprints.py::"
            "test_what_a_page_granted_is_asked_only_once_the_rights_are_others",
            "access/test_fingerprints.py::"
            "test_over_a_real_server_what_the_fingerprint_does_not_show_is_asked_when_told",
        ],
    ),
    Mutation(
        "A policy that was asked at once may have read from a replica that lags.",
        "sse_app/access/readers.py",
        "            self._lag_ends_at = _lag_ends()\n",
        "            self._lag_ends_at = 0.0\n",
        [
            "access/test_fingerprints.py::test_with_a_router_a_policy_is_asked_until_a_replica_can_not_lag"
        ],
    ),
    Mutation(
        "The policy that opened a stream may have read from a replica that lags.",
        "sse_app/access/readers.py",
        "        self._lag_ends_at = _lag_ends()\n        stream",
        "        self._lag_ends_at = 0.0\n        stream",
        [
            "access/test_fingerprints.py::test_over_a_real_server_a_replica_that_lags_keeps_no_right_alive"
        ],
    ),
    Mutation(
        "Two sets of keys can have one sum.",
        "sse_app/access/fingerprints.py",
        "        rights = (*map(str, flags), _digest(repr((member, sorted(through)))))\n",
        "        rights = (str(sum(int(key) for _, key in member)), str(len(through)))\n",
        ["access/test_fingerprints.py::test_other_groups_are_other_rights_whatever_their_sums"],
    ),
    Mutation(
        "What a group is permitted changes the rights of its members.",
        "sse_app/access/fingerprints.py",
        "_digest(repr((member, sorted(through))))",
        "_digest(repr(member))",
        ["access/test_fingerprints.py::test_a_right_counts_by_what_gives_it"],
    ),
    Mutation(
        "One strange key of a middleware's user would end the streams of all users.",
        "sse_app/access/fingerprints.py",
        "        with suppress(ValueError, TypeError, ValidationError):\n",
        "        with suppress(KeyError):\n",
        ["access/test_fingerprints.py::test_a_key_that_can_be_no_key_hides_nobody_else"],
    ),
    Mutation(
        "Projects have roles of their own, with rights of their own.",
        "sse_app/access/disconnect.py",
        "        if rights is not None:\n            through",
        "        if rights is None:\n            through",
        ["access/test_revocation.py::test_a_change_of_groups_tells_of_the_users_it_is_about"],
    ),
    Mutation(
        "A change of one user's groups would ask everybody's policy.",
        "sse_app/access/disconnect.py",
        '        users = pk_set if len(pk_set) <= MOST_NAMED else ("",)\n',
        "        pass\n",
        ["access/test_revocation.py::test_a_change_of_groups_tells_of_the_users_it_is_about"],
    ),
    Mutation(
        "A stranger has no key, and the text for that is somebody's or everybody's.",
        "sse_app/access/disconnect.py",
        "    if found is None or isinstance(found, bool) or not 0 < len(key) <= MOST_KEY:\n",
        "    if False:\n",
        ["access/test_revocation.py::test_what_is_no_user_is_not_disconnected_for_one"],
    ),
    Mutation(
        "The key of a group or token is also the key of some user.",
        "sse_app/access/disconnect.py",
        "    if isinstance(user, models.Model) and not isinstance(user, get_user_model()):\n",
        "    if False:\n",
        ["access/test_revocation.py::test_what_is_no_user_is_not_disconnected_for_one"],
    ),
    Mutation(
        "While the database is away nobody's right can be taken for granted for ever.",
        "sse_app/access/revalidation.py",
        "        if self._failures[tenant] >= FAILED_ROUNDS:\n",
        "        if False:\n",
        [
            "access/test_revocation.py::test_a_database_that_is_away_for_three_rounds_ends_what_it_can_"
            "not_answer_for"
        ],
    ),
    Mutation(
        "A page that was rendered before a right was taken back would open a stream again.",
        "sse_app/access/admission.py",
        '    if revoked:\n        raise Expired("expired")\n',
        "",
        ["access/test_revocation.py::test_pages_rendered_before_a_disconnect_open_nothing_again"],
    ),
    Mutation(
        "A page that was rendered before a right was lost would open a stream again.",
        "sse_app/access/admission.py",
        "if not grant.user or (access.fingerprint and grant.rights == access.fingerprint.seal):",
        "if True:",
        [
            "access/test_revocation.py::test_a_page_rendered_before_a_right_was_lost_opens_nothing_again"
        ],
    ),
    Mutation(
        "The page of one user in another's hands.",
        "sse_app/access/admission.py",
        "    if not all(grant.is_for(access.user) for grant in grants):\n"
        '        hint = f"The page that signed this grant is of another user than {access.user}: '
        'reload it."\n'
        "        raise Refused(403, FORBIDDEN, hint=hint)\n",
        "",
        ["access/test_admission.py::test_a_signed_page_is_for_the_one_it_was_rendered_for"],
    ),
    Mutation(
        "A ticket that is used twice at the same time opens one stream.",
        "sse_app/access/tickets.py",
        "return ticket if deleted == 1 and in_time else None",
        "return ticket if in_time else None",
        ["access/test_admission.py::test_of_two_who_use_a_ticket_at_once_one_gets_the_stream"],
    ),
    Mutation(
        "Nothing that nobody granted is heard.",
        "sse_app/access/authorization.py",
        "        if decide is None:\n            return False\n",
        "        if decide is None:\n            return True\n",
        ["doors/test_asgi.py::test_what_nobody_granted_is_refused"],
    ),
    Mutation(
        "Nearly every object is true, also a coroutine that nobody awaited.",
        "sse_app/access/authorization.py",
        "    return answer is True\n",
        "    return bool(answer)\n",
        [
            "access/test_authorization.py::test_what_is_true_and_is_not_true_is_refused_and_told_once",
            "access/test_authorization.py::test_a_consumer_of_a_projects_own_grants_by_true",
            "access/test_authorization.py::test_a_permission_that_is_a_coroutine_is_none",
            "access/test_authorization.py::test_an_admin_site_whose_answer_is_a_coroutine_shows_no_dashboard",
        ],
    ),
    Mutation(
        "A policy that is asked for each stream would fill the log.",
        "sse_app/access/authorization.py",
        "        _faulty.add(by)\n",
        "",
        [
            "access/test_authorization.py::test_what_is_true_and_is_not_true_is_refused_and_told_once"
        ],
    ),
    Mutation(
        "Behind a plain decorator nobody sees that a policy is async.",
        "sse_app/runtime/callables.py",
        "        return await resolved(result)\n",
        "        return (await result) if _is_async(function) else result\n",
        [
            "access/test_authorization.py::test_what_a_policy_comes_to_is_awaited",
            "access/test_authorization.py::"
            "test_over_a_real_server_a_decorated_policy_decides_and_a_truthy_one_does_not",
        ],
    ),
    Mutation(
        "A handler or policy in a view may have to be awaited as well.",
        "sse_app/runtime/callables.py",
        "        return async_to_sync(resolved)(result) if inspect.isawaitable(result) else result",
        "        return result",
        [
            "access/test_authorization.py::test_who_may_speak_is_decided_likewise",
            "access/test_authorization.py::test_a_handler_behind_a_plain_decorator_is_awaited",
        ],
    ),
    Mutation(
        "A thread can't hand StopIteration to a loop, which would wait for ever.",
        "sse_app/runtime/containment.py",
        "            return not isinstance(error, _NOT_FOR_LOOPS)\n",
        "            return True\n",
        [
            "access/test_authorization.py::"
            "test_a_policy_that_finds_nothing_by_next_is_an_error_and_no_silence",
            "delivery/test_snapshots.py::test_what_can_not_be_sent_is_a_failure",
        ],
    ),
    Mutation(
        "A method is true, whatever it would return.",
        "sse_app/views/metrics.py",
        "getattr(user, name, None) is True for name",
        "getattr(user, name, None) for name",
        ["access/test_authorization.py::test_a_staff_flag_that_is_a_method_is_none"],
    ),
    Mutation(
        "A policy that fails in a view would be a 500.",
        "sse_app/views/bodies.py",
        "        raise unavailable() from error\n    if not answer",
        "        raise\n    if not answer",
        ["access/test_authorization.py::test_a_policy_that_fails_is_no_500"],
    ),
    Mutation(
        "A user whose key is an e-mail address has a group, too.",
        "sse_app/access/authorization.py",
        "group == user_group(user)",
        'group == f"user.{user.pk}"',
        ["access/test_authorization.py::test_a_user_by_e_mail_has_a_group"],
    ),
    Mutation(
        "A user without a primary key, as a token's user may be, would be a 500.",
        "sse_app/access/authorization.py",
        "user.is_authenticated and user.pk is not None and",
        "user.is_authenticated and",
        ["publishing/test_objects.py::test_a_user_has_a_group_that_only_this_user_may_listen_to"],
    ),
    Mutation(
        "A variable that is missing in a template would be a part of a group's name.",
        "sse_app/templatetags/sse.py",
        '    if value is None or value == "":\n',
        "    if value is None:\n",
        ["publishing/test_objects.py::test_the_error_of_a_tag_says_what_to_write"],
    ),
    Mutation(
        "A row of another model may have the primary key of a user.",
        "sse_app/access/authorization.py",
        "signed_in and not foreign and",
        "signed_in and",
        ["hosts/test_authentication.py::test_what_is_no_user_is_refused"],
    ),
    Mutation(
        "Credentials that are refused must not leave the request to the session.",
        "sse_app/access/authenticators.py",
        "            raise _refusal(one, request, status) from error\n",
        "            return None\n",
        [
            "hosts/test_authentication.py::"
            "test_wrong_credentials_are_refused_although_the_session_would_be_let_in"
        ],
    ),
    Mutation(
        "A token of another package ends, and the user's fingerprint does not show that.",
        "sse_app/access/revalidation.py",
        "elif gone or not await self._is_signed_in(reader):",
        "elif gone:",
        ["hosts/test_authentication.py::test_a_stream_ends_when_the_credentials_end"],
    ),
    Mutation(
        "A browser adds a session's cookie to what another credential signs in.",
        "sse_app/views/bodies.py",
        'return signed_in and (not request.COOKIES or "Authorization" in request.headers)',
        "return signed_in",
        ["hosts/test_authentication.py::test_cookies_need_the_csrf_token_unless_a_header_signs_in"],
    ),
    Mutation(
        "A ticket of a user with credentials would end with another visitor's session.",
        "sse_app/views/access.py",
        "    if not has_session(request):\n",
        "    if False:\n",
        [
            "hosts/test_authentication.py::"
            "test_the_credentials_count_and_not_the_session_beside_them"
        ],
    ),
    Mutation(
        "A token that was made with an old password must not outlive it.",
        "sse_app/access/tokens.py",
        "visitor.fingerprint is not None and has_seal(visitor.user, token.seal)",
        "visitor.fingerprint is not None",
        ["hosts/test_authentication.py::test_a_token_of_a_user_ends_with_the_rights_of_the_user"],
    ),
    Mutation(
        "A ticket for an inactive user would be one for everybody.",
        "sse_app/access/tickets.py",
        "if reader is None or reader.is_authenticated is not signed_in:",
        "if reader is None:",
        ["hosts/test_authentication.py::test_a_ticket_that_nobody_could_use_is_not_given"],
    ),
    Mutation(
        "Each tenant may have a user 5 and a group of the same name.",
        "sse_app/protocol/groups.py",
        "    full = prefix + validate_group(own)\n",
        "    full = validate_group(own)\n",
        ["hosts/test_tenants.py::test_no_tenant_gets_what_another_one_publishes_to_the_same_name"],
    ),
    Mutation(
        "A view's thread has the tenant of its request, and another thread has none.",
        "sse_app/access/authorization.py",
        " or settings().STREAM_CONTEXT is not None\n",
        "\n",
        ["hosts/test_tenants.py::test_a_view_asks_the_policy_for_the_rows_of_the_tenant"],
    ),
    Mutation(
        "A ticket of one tenant would be used up at another one.",
        "sse_app/access/tickets.py",
        'hashlib.sha256(scoped(text, namespace()).encode("utf-8", "replace"))',
        'hashlib.sha256(text.encode("utf-8", "replace"))',
        ["hosts/test_tenants.py::test_what_one_tenant_gives_opens_nothing_at_another"],
    ),
    Mutation(
        "A token of one tenant would be one of all tenants.",
        "sse_app/access/tokens.py",
        "hashlib.sha256(scoped(secret, namespace()).encode())",
        "hashlib.sha256(secret.encode())",
        ["hosts/test_tenants.py::test_what_one_tenant_gives_opens_nothing_at_another"],
    ),
    Mutation(
        "A grant of one tenant names a user whom another tenant has too.",
        "sse_app/access/grants.py",
        "signing.Signer(salt=scoped(SALT, namespace()))",
        "signing.Signer(salt=SALT)",
        ["hosts/test_tenants.py::test_what_one_tenant_gives_opens_nothing_at_another"],
    ),
    Mutation(
        "disconnect(user=5) of one tenant would end the streams of each tenant's user 5.",
        "sse_app/delivery/streams.py",
        "return stream.user_key and scoped(stream.user_key, namespace_of(stream.asked[0]))",
        "return stream.user_key",
        ["hosts/test_tenants.py::test_a_right_that_ends_at_one_tenant_ends_no_stream_of_another"],
    ),
    Mutation(
        "The users of a tenant are in its own schema, also when a stream is checked again.",
        "sse_app/access/revalidation.py",
        "                    surrounded(_read),\n",
        "                    _read,\n",
        ["hosts/test_tenants.py::test_a_right_that_ends_at_one_tenant_ends_no_stream_of_another"],
    ),
    Mutation(
        "The first answer to a key would be that of another tenant's user 5.",
        "sse_app/views/send.py",
        'return f"user {user_key(message.user)}"',
        'return f"user {message.user.pk}"',
        ["hosts/test_tenants.py::test_a_message_is_one_of_the_tenant_also_with_the_same_key"],
    ),
    Mutation(
        "A tenant's staff would see the groups and tokens of all tenants.",
        "sse_app/access/posts.py",
        "    if namespace():\n",
        "    if False:\n",
        ["hosts/test_tenants.py::test_the_pages_that_show_all_tenants_belong_to_none"],
    ),
    Mutation(
        "Some authentication backends sign in inactive users.",
        "sse_app/access/authorization.py",
        'signed_in and not foreign and getattr(user, "is_active", True)',
        "signed_in and not foreign",
        [
            "access/test_authorization.py::test_an_inactive_user_is_a_stranger_to_policies",
            "access/test_admission.py::test_an_inactive_user_whom_a_backend_signs_in_is_shown_nothing",
        ],
    ),
    Mutation(
        "A user of an ASGI middleware may have no row, and nobody could tell when the right ends.",
        "sse_app/access/visitors.py",
        "        if fingerprint and fingerprint.active and ",
        "        if fingerprint is None or ",
        [
            "access/test_foreign_users.py::test_a_user_of_an_asgi_middleware_needs_a_row_and_to_be_active"
        ],
    ),
    Mutation(
        "A session may have been found right by a replica's old password.",
        "sse_app/access/visitors.py",
        " and fingerprint.has_password_of(self.user):",
        ":",
        [
            "access/test_foreign_users.py::test_a_user_whose_password_is_another_by_now_is_a_stranger"
        ],
    ),
    Mutation(
        "Whose grant is for everybody, everybody can open: so only a stranger gets one.",
        "sse_app/access/grants.py",
        "        if user is None or user.is_authenticated is False:\n",
        "        if user is None or user.is_authenticated is not True:\n",
        [
            "access/test_foreign_users.py::"
            "test_a_user_who_can_not_be_told_from_a_stranger_gets_no_grant_for_everybody"
        ],
    ),
    Mutation(
        "A lazy user of another middleware is no stranger because nobody has looked.",
        "sse_app/access/grants.py",
        '    anonymous = getattr(user, "is_authenticated", False) is False\n',
        "    anonymous = type(user) is not user.__class__ or user.is_authenticated is False\n",
        [
            "access/test_foreign_users.py::test_a_lazy_user_is_looked_at_whoever_made_it",
            "access/test_foreign_users.py::test_the_page_of_a_user_by_a_token_is_for_that_user",
        ],
    ),
    Mutation(
        "A page for strangers would vary by cookie, and no cache could keep it.",
        "sse_app/access/grants.py",
        "        session.accessed = accessed\n",
        "        pass\n",
        ["access/test_admission.py::test_a_page_for_strangers_makes_no_session_and_can_be_cached"],
    ),
    Mutation(
        "The header is other packages' too: a JWT there is none of ours.",
        "sse_app/access/tokens.py",
        "(?-i:(sse_\\S*))",
        "(\\S+)",
        [
            "access/test_tokens.py::test_a_bearer_token_is_in_the_authorization_header",
            "access/test_foreign_users.py::test_a_foreign_authorization_header_opens_and_closes_nothing",
        ],
    ),
    Mutation(
        "Of two tokens neither counts.",
        "sse_app/access/tokens.py",
        '    return ",".join(sorted(found)) if found else None\n',
        "    return next(iter(found), None)\n",
        ["access/test_tokens.py::test_a_bearer_token_is_in_the_authorization_header"],
    ),
    Mutation(
        "Django's get_user() moves and ends sessions, and a stream can't send the new cookie.",
        "sse_app/access/sessions.py",
        "    copy = _Copy(session.items())\n"
        "    return get_user(SimpleNamespace(session=copy)), copy.moves  ",
        "    return get_user(SimpleNamespace(session=session)), False  ",
        [
            "access/test_sessions.py::test_streams_change_no_session_after_the_key_was_rotated",
            "access/test_sessions.py::test_a_dashboard_changes_no_session_while_it_asks_again",
        ],
    ),
    Mutation(
        "Django's store of files deletes an expired session while it loads it.",
        "sse_app/access/sessions.py",
        "    session.load = load_only\n",
        "",
        ["access/test_sessions.py::test_a_session_that_has_expired_is_not_deleted_by_a_stream"],
    ),
    Mutation(
        "A policy that ends a session on purpose must not be made to believe that it did.",
        "sse_app/access/sessions.py",
        "            del session.delete, session.create\n",
        "            pass\n",
        ["access/test_sessions.py::test_a_policy_may_still_change_a_session_on_purpose"],
    ),
    Mutation(
        "Without threads of its own, a policy that hangs holds all other work in threads.",
        "sse_app/asgi.py",
        "            serve()\n",
        "            pass\n",
        ["access/test_slow_policies.py::test_only_visitors_that_need_a_policy_wait_for_it"],
    ),
    Mutation(
        "Policies that hang take the threads of the event log and of revocations.",
        "sse_app/access/authorization.py",
        "    threads = _threads[by] if own_threads else None\n",
        "    from ..runtime.threads import OWN as threads\n",
        ["access/test_slow_policies.py::test_only_visitors_that_need_a_policy_wait_for_it"],
    ),
    Mutation(
        "Policies that hang take the threads of sessions and users.",
        "sse_app/access/authorization.py",
        "    threads = _threads[by] if own_threads else None\n",
        "    from ..runtime.threads import STORE as threads\n",
        ["access/test_slow_policies.py::test_only_visitors_that_need_a_policy_wait_for_it"],
    ),
    Mutation(
        "An async policy that never ends keeps its visitor waiting without end.",
        "sse_app/runtime/callables.py",
        "        async with asyncio.timeout(seconds):\n            return await resolved(result)\n",
        "        return await resolved(result)\n",
        [
            "access/test_slow_policies.py::test_a_policy_that_does_not_answer_in_time_is_a_passing_trouble"
        ],
    ),
    Mutation(
        "A policy that fails for each visitor fills the log.",
        "sse_app/access/authorization.py",
        "            key=by,\n",
        "            key=str(id(error)),\n",
        [
            "access/test_slow_policies.py::test_a_policy_that_does_not_answer_in_time_is_a_passing_trouble"
        ],
    ),
    Mutation(
        "A sync policy that hangs keeps its visitor waiting without end.",
        "sse_app/runtime/callables.py",
        "    async with asyncio.timeout(seconds):\n        return await sync_to_async",
        "    async with asyncio.timeout(None):\n        return await sync_to_async",
        [
            "access/test_slow_policies.py::test_a_policy_that_does_not_answer_in_time_is_a_passing_trouble"
        ],
    ),
    Mutation(
        "A thread apart does not see the rows of a test's transaction.",
        "sse_app/runtime/callables.py",
        "    if threads is None or not is_serving():\n",
        "    if threads is None:\n",
        [
            "access/test_slow_policies.py::InATransactionOfATest::test_a_policy_sees_the_rows_of_the_test"
        ],
    ),
    Mutation(
        "Django's own function closes a connection within a transaction.",
        "sse_app/runtime/connections.py",
        "        if not connection.in_atomic_block:\n",
        "        if True:\n",
        [
            "access/test_slow_policies.py::InATransactionOfATest::test_a_policy_sees_the_rows_of_the_test"
        ],
    ),
    Mutation(
        "A view's transaction has rows that no other thread sees.",
        "sse_app/access/authorization.py",
        "    return in_transaction() or settings()",
        "    return settings()",
        ["access/test_slow_policies.py::test_in_a_views_transaction_a_policy_sees_its_rows"],
    ),
    Mutation(
        "A policy that hangs for one stream keeps all others from being looked at.",
        "sse_app/access/revalidation.py",
        ", sessions)\n        return True\n",
        ", sessions)\n        await asyncio.gather(*self._checking.values())\n"
        "        return True\n",
        [
            "access/test_slow_policies.py::test_a_policy_that_hangs_for_one_stream_holds_no_other_stream"
        ],
    ),
    Mutation(
        "After a change for all users, all streams at once ask an async policy.",
        "sse_app/access/revalidation.py",
        "            async with self._asking[reader.stream.sender]:\n",
        "            if True:\n",
        ["access/test_slow_policies.py::test_not_all_streams_ask_their_policy_at_once"],
    ),
    Mutation(
        "A policy that fails for good holds its stream without end and without a word.",
        "sse_app/access/readers.py",
        "        if now - self._failing_since >= seconds:\n",
        "        if False:\n",
        [
            "access/test_slow_policies.py::test_a_stream_whose_policy_fails_for_long_ends_and_meets_the_policy_again"
        ],
    ),
    Mutation(
        "A changed right that the policy can't confirm is still used.",
        "sse_app/access/readers.py",
        "        elif not self.held:\n            self._hold()\n",
        "",
        [
            "access/test_slow_policies.py::test_a_stream_whose_policy_fails_for_long_ends_and_meets_the_policy_again"
        ],
    ),
    Mutation(
        "A receiver of a signal that hangs holds every stream, and the end of the server.",
        "sse_app/signals.py",
        "return await in_thread(work, threads=_threads,",
        "return await in_thread(work, threads=None,",
        ["access/test_slow_policies.py::test_only_the_stream_of_its_signal_waits_for_a_receiver"],
    ),
    Mutation(
        "A context variable such as the tenant or the language gets lost on the way to a thread.",
        "sse_app/runtime/callables.py",
        "        return await sync_to_async(work, thread_sensitive=False, executor=executor)"
        "(*args)\n",
        "        return await asyncio.get_running_loop().run_in_executor(executor, work, *args)\n",
        ["runtime/test_callables.py::test_a_function_in_a_thread_sees_the_callers_context"],
    ),
    Mutation(
        "A future that was cancelled within a policy would look like the end of the task.",
        "sse_app/runtime/containment.py",
        "(StopIteration, concurrent.futures.CancelledError)",
        "(StopIteration,)",
        ["runtime/test_callables.py::test_what_is_no_exception_becomes_one"],
    ),
    Mutation(
        "A user whom a middleware makes from a token is no row that a ticket can refer to.",
        "sse_app/views/access.py",
        "    reader = tickets.owner_of(authorization.active_or_anonymous(request.user))\n",
        "    reader = authorization.active_or_anonymous(request.user)\n",
        ["access/test_posts.py::test_a_ticket_is_for_a_user_with_a_row_or_for_nobody"],
    ),
    Mutation(
        "A session that Django moves is no logout.",
        "sse_app/access/revalidation.py",
        "        elif gone and reader.access.session_moves:\n",
        "        elif False:\n",
        ["access/test_sessions.py::test_streams_change_no_session_after_the_key_was_rotated"],
    ),
    Mutation(
        "A logout may be what moves the session, and its streams have the key of before.",
        "sse_app/access/disconnect.py",
        "for each in (key, cookie) if each}",
        "for each in (key,) if each}",
        ["access/test_sessions.py::test_streams_change_no_session_after_the_key_was_rotated"],
    ),
    Mutation(
        "Where sessions are kept in cookies, the key is the session.",
        "sse_app/access/sessions.py",
        "    if key and issubclass(_store(), CookieStore):\n",
        "    if False:\n",
        [
            "access/test_sessions.py::test_what_names_a_session_in_a_cookie_is_no_session",
            "access/test_admission.py::test_a_ticket_of_a_session_in_a_cookie_keeps_no_session",
        ],
    ),
    Mutation(
        "A project's own store may keep sessions in cookies too.",
        "sse_app/access/sessions.py",
        "    if issubclass(store, CookieStore):\n",
        "    if store is CookieStore:\n",
        ["access/test_sessions.py::test_what_names_a_session_in_a_cookie_is_no_session"],
    ),
    Mutation(
        "A ticket's row would give the session to whoever reads the database.",
        "sse_app/access/tickets.py",
        "        session_key=_sealed(text, session_key.encode()).hex(),\n",
        "        session_key=session_key.encode().hex(),\n",
        [
            "access/test_admission.py::test_a_tickets_row_opens_no_session_and_its_text_tells_which_it_is"
        ],
    ),
    Mutation(
        "A grant is taken back by what concerns it, and by nothing that is older.",
        "sse_app/access/grants.py",
        'return later and row.user in ("", self.user) and row.group in ("", *self.groups)',
        "return later",
        ["access/test_admission.py::test_each_of_several_grants_is_taken_back_by_what_concerns_it"],
    ),
    Mutation(
        "redis-py may swallow the cancellation of the task, which then runs for ever.",
        "sse_app/access/limits_redis.py",
        " and not task.cancelling():",
        ":",
        [
            "access/test_limits.py::"
            "test_a_cancellation_that_the_client_of_redis_swallows_ends_the_task_all_the_same"
        ],
    ),
    Mutation(
        "A node of a Redis Cluster refuses the keys of the other nodes.",
        "sse_app/access/limits_redis.py",
        "    if not is_node:\n",
        "    if True:\n",
        ["access/test_limits.py::test_a_layer_on_a_cluster_counts_on_the_node_that_has_the_counts"],
    ),
    Mutation(
        "The name of an event is for those who may read events.",
        "sse_app/operations/dashboard/admin.py",
        " if named and epoch == head.epoch else None",
        " if epoch == head.epoch else None",
        ["doors/test_stream_admin.py::test_only_who_may_read_events_is_told_the_name_of_one"],
    ),
    Mutation(
        "Each save of a user would cost the project a durable event, also of the time of a visit.",
        "sse_app/access/user_changes.py",
        "if old != new and (written is None or name in written)",
        "if written is None or name in written",
        ["access/test_user_changes.py::test_a_save_that_changes_no_right_is_one_query"],
    ),
    Mutation(
        "A change of rights that was rolled back and is saved again would not be told.",
        "sse_app/access/user_changes.py",
        "transaction.on_commit(lambda: user.__dict__.update({_NOTED: after}), using=using)",
        "user.__dict__.update({_NOTED: after})",
        [
            "access/test_user_changes.py::test_a_change_that_was_rolled_back_is_told_when_it_is_saved_again"
        ],
    ),
    Mutation(
        "A policy that reads another field of the user would not be asked again after a save.",
        "sse_app/access/disconnect.py",
        "    if changed:\n",
        "    if not changed.isdisjoint(RIGHTS):\n",
        [
            "access/test_fingerprints.py::test_over_a_real_server_what_the_fingerprint_does_not_show_is_asked_when_told"
        ],
    ),
)
