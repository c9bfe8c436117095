"""Who may listen, until when, and to whom a reply goes."""

from __future__ import annotations

from . import Mutation

MUTATIONS = (
    Mutation(
        "A connection id that is not the user's own would have replies sent to somebody else.",
        "sse_app/connections.py",
        'return Signer(salt=f"sse_app.connection {user}")',
        'return Signer(salt="sse_app.connection")',
        [
            "test_replies.py::test_a_connection_id_is_the_users_own",
            "test_replies.py::test_nobody_can_have_a_reply_sent_to_somebody_else",
        ],
    ),
    Mutation(
        "The id of a stream is no secret: it stands in logs and in the admin.",
        "sse_app/connections.py",
        "        return _signer(user).unsign(connection)\n",
        '        return connection.partition(":")[0]\n',
        [
            "test_replies.py::test_a_connection_id_is_the_users_own",
            "test_replies.py::test_nobody_can_have_a_reply_sent_to_somebody_else",
        ],
    ),
    Mutation(
        "A tab's name goes out as a line of the stream.",
        "sse_app/views.py",
        '        tab = validate_tab(tab) if tab != "" else ""\n',
        '        tab = str(tab or "")\n',
        ["test_replies.py::test_a_tab_is_named_on_the_wire_and_must_be_a_name"],
    ),
    Mutation(
        "Whoever can put a message on the layer could put a line into a stream by it.",
        "sse_app/connections.py",
        "if not isinstance(reply.stream, str) or (reply.tab and not validate_tab(reply.tab)):",
        "if not isinstance(reply.stream, str):",
        ["test_replies.py::test_a_malformed_reply_is_logged_and_skipped"],
    ),
    Mutation(
        "A reply goes to the stream that spoke, and not to all that hear of it.",
        "sse_app/control.py",
        "    if reader is not None and reader.loop is asyncio.get_running_loop():\n"
        "        reader.take(reply)\n",
        "    for reader in readers():\n        reader.take(reply)\n",
        ["test_replies.py::test_a_reply_goes_to_the_stream_that_spoke_and_to_no_other"],
    ),
    Mutation(
        "Each hub of a process hears of a reply, and a stream is touched on its own loop only.",
        "sse_app/control.py",
        "if reader is not None and reader.loop is asyncio.get_running_loop():",
        "if reader is not None:",
        ["test_replies.py::test_a_reply_is_taken_on_the_loop_of_its_stream"],
    ),
    Mutation(
        "Ids are random, and two streams could have the same.",
        "sse_app/control.py",
        "    if _readers.setdefault(reader.id, reader) is not reader:\n        return False\n",
        "    _readers[reader.id] = reader\n",
        ["test_replies.py::test_two_streams_never_have_one_id"],
    ),
    Mutation(
        "A reader that lags keeps the latest per key, and replies are about different things.",
        "sse_app/connections.py",
        'return "reply", self.tab, self.name, self.key or ""',
        'return "reply",',
        ["test_replies.py::test_a_reader_that_lags_gets_the_latest_per_key_and_tab"],
    ),
    Mutation(
        "On the way, too, only the latest event per key is kept.",
        "sse_app/connections.py",
        "durable=False, key=own)",
        "durable=False)",
        ["test_replies.py::test_no_reply_takes_the_place_of_another_on_the_way"],
    ),
    Mutation(
        "Who is revoked shows nothing more before anything else has been asked.",
        "sse_app/streams.py",
        '            self.subscription.cut("auth")\n',
        "            pass\n",
        ["test_revocation.py::test_a_revoked_stream_is_cut_before_the_loop_turns"],
    ),
    Mutation(
        "What is in doubt waits until it has been asked.",
        "sse_app/streams.py",
        "            self.subscription.hold()\n",
        "            pass\n",
        ["test_revocation.py::test_a_stream_in_doubt_is_held_before_anything_is_asked"],
    ),
    Mutation(
        "One that is held is offered nothing.",
        "sse_app/subscriptions.py",
        "if self.live and (self.held or not self.sink.ready or not self._is_next(place, event)):",
        "if self.live and (not self.sink.ready or not self._is_next(place, event)):",
        ["test_cohorts.py::test_a_held_or_cut_member_is_offered_nothing_more"],
    ),
    Mutation(
        "One that is held would read on from the log.",
        "sse_app/subscriptions.py",
        "            if self.held:\n                await self._wake.next()\n"
        "                continue\n",
        "",
        ["test_cohorts.py::test_a_held_or_cut_member_is_offered_nothing_more"],
    ),
    Mutation(
        "One that is written to with others is not held by them.",
        "sse_app/subscriptions.py",
        "            self.held = next(_holds)\n        if (cohort := self.cohort) is not None:\n"
        "            cohort.doubt(self)\n",
        "            self.held = next(_holds)\n",
        ["test_cohorts.py::test_a_held_or_cut_member_is_offered_nothing_more"],
    ),
    Mutation(
        "Another thread may hold one just as it joins the others.",
        "sse_app/cohorts.py",
        "        if subscription.held or subscription.close_reason is not None:\n"
        "            self.doubt(subscription)\n",
        "",
        ["test_cohorts.py::test_one_that_is_held_while_it_joins_is_offered_nothing"],
    ),
    Mutation(
        "One that was held again while it was looked at is not to go on.",
        "sse_app/subscriptions.py",
        "            if self.held != held:\n                return\n",
        "",
        ["test_hub.py::test_one_that_was_held_again_meanwhile_is_not_released"],
    ),
    Mutation(
        "What permitted a stream when it was asked may be over when it opens.",
        "sse_app/consumers.py",
        "            if not control.enter(stream, since):\n",
        "            if not control.enter(stream, control.mark()):\n",
        [
            "test_revocation.py::test_a_stream_that_is_being_admitted_learns_of_what_happens_"
            "meanwhile"
        ],
    ),
    Mutation(
        "What permitted a stream when it was asked may be in doubt when it opens.",
        "sse_app/control.py",
        "    for told in missed:\n        reader.revoke(told)\n",
        "",
        [
            "test_revocation.py::test_a_stream_that_is_being_admitted_learns_of_what_happens_"
            "meanwhile"
        ],
    ),
    Mutation(
        "The layer may lose the word of a revocation, so it is in the log.",
        "sse_app/control.py",
        "return Event.of(CONTROL_GROUP, CONTROL_EVENT, fields)",
        "return Event.of(CONTROL_GROUP, CONTROL_EVENT, fields, durable=False)",
        [
            "test_revocation.py::test_another_process_follows_each_revocation_with_the_next_check_"
            "of_the_log"
        ],
    ),
    Mutation(
        "Who missed revocations can only look at everybody.",
        "sse_app/control.py",
        "        apply(Revocation(review=True))\n",
        "",
        ["test_revocation.py::test_who_may_have_missed_revocations_looks_at_everybody"],
    ),
    Mutation(
        "Some changes of rights are told by no signal.",
        "sse_app/revalidation.py",
        "                await self.round(self._mine())\n",
        "",
        ["test_revocation.py::test_what_only_the_database_knows_is_found_by_asking"],
    ),
    Mutation(
        "A session that has ended ends its streams.",
        "sse_app/revalidation.py",
        "gone = bool(reader.session_key) and reader.session_key not in sessions",
        "gone = False",
        ["test_revocation.py::test_what_only_the_database_knows_is_found_by_asking"],
    ),
    Mutation(
        "A policy that failed has decided nothing, so it is asked again.",
        "sse_app/streams.py",
        "                self.access.fingerprint = before  # Asked again in the next round.\n",
        "",
        [
            "test_revocation.py::"
            "test_while_the_policy_fails_a_stream_in_doubt_waits_and_is_asked_for_again"
        ],
    ),
    Mutation(
        "While the database is away nobody's right can be taken for granted for ever.",
        "sse_app/revalidation.py",
        "        if self._failures >= FAILED_ROUNDS:\n",
        "        if False:\n",
        [
            "test_revocation.py::test_a_database_that_is_away_for_three_rounds_ends_what_it_can_"
            "not_answer_for"
        ],
    ),
    Mutation(
        "A page that was rendered before a right was taken back would open a stream again.",
        "sse_app/admission.py",
        '    if revoked:\n        raise Over("expired")\n',
        "",
        ["test_revocation.py::test_pages_rendered_before_a_disconnect_open_nothing_again"],
    ),
    Mutation(
        "A page that was rendered before a right was lost would open a stream again.",
        "sse_app/admission.py",
        "if not grant.user or (access.fingerprint and grant.rights == access.fingerprint.seal):",
        "if True:",
        ["test_revocation.py::test_a_page_rendered_before_a_right_was_lost_opens_nothing_again"],
    ),
    Mutation(
        "The page of one user in another's hands.",
        "sse_app/admission.py",
        "    if not grant.fits(access.user):\n        raise Refused(403, FORBIDDEN)\n",
        "",
        ["test_access.py::test_a_signed_page_is_for_the_one_it_was_rendered_for"],
    ),
    Mutation(
        "A ticket that is used twice at the same time opens one stream.",
        "sse_app/tickets.py",
        "return ticket if deleted == 1 and in_time else None",
        "return ticket if in_time else None",
        ["test_access.py::test_of_two_who_use_a_ticket_at_once_one_gets_the_stream"],
    ),
    Mutation(
        "Nothing that nobody granted is heard.",
        "sse_app/authorization.py",
        "        if decide is None or not await _call(decide, user, group, request):\n",
        "        if decide is not None and not await _call(decide, user, group, request):\n",
        ["test_asgi.py::test_what_nobody_granted_is_refused"],
    ),
)
