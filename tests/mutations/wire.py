"""What clients make of a stream, names of groups and events, and who may ask from where."""

from __future__ import annotations

from ..mutations import Mutation

MUTATIONS = (
    Mutation(
        "A stranger asks for all the history there is, again and again.",
        "sse_app/delivery/replay.py",
        "    most = settings().REPLAY_EVENTS\n    return min(",
        "    most = None\n    return min(",
        ["delivery/test_stream.py::test_a_stranger_has_at_most_replay_events_of_history_read"],
    ),
    Mutation(
        "A page that misspells from= would never know that its history is missing.",
        "sse_app/delivery/replay.py",
        'return cls("" if history is None else None, history, first=True)',
        "return cls(None, history, first=True)",
        [
            "delivery/test_stream.py::test_a_history_that_can_not_be_read_is_told_and_the_stream_goes_on"
        ],
    ),
    Mutation(
        "Pages of many streams would all load at once, since none knows of the others.",
        "sse_app/delivery/topics.py",
        "        event.count_readers(self.readers)\n",
        "",
        ["protocol/test_labels.py::test_labelled_streams_are_written_to_as_one_apart_from_others"],
    ),
    Mutation(
        "A page that asks for pings with ping=true would wait for them in vain.",
        "sse_app/access/admission.py",
        '    if given not in ([], ["0"], ["1"]):\n',
        "    if not settings():\n",
        ["delivery/test_stream.py::test_a_flag_that_is_neither_1_nor_0_is_400_and_named"],
    ),
    Mutation(
        "CR ends a line for one client and not for another, and CRLF that is cut breaks two.",
        "sse_app/protocol/events.py",
        'return text.replace("\\r\\n", "\\n").replace("\\r", "\\n") if "\\r" in text else text',
        "return text",
        [
            "protocol/test_events.py::test_the_data_of_an_event_is_what_clients_will_see",
            "protocol/test_events.py::test_an_event_comes_out_of_a_parser_as_it_went_in",
        ],
    ),
    Mutation(
        "str.splitlines() splits at eight characters that end no line of a stream.",
        "sse_app/protocol/events.py",
        'lines = _with_line_feeds(text).replace("\\n", "\\ndata: ")',
        'lines = "\\ndata: ".join(text.splitlines())',
        [
            "protocol/test_events.py::test_awkward_text_survives",
            "protocol/test_events.py::test_an_event_comes_out_of_a_parser_as_it_went_in",
        ],
    ),
    Mutation(
        "A comment with a blank line after it is an empty message for fetch-event-source.",
        "sse_app/protocol/events.py",
        'HEARTBEAT: Final = b":\\n"',
        'HEARTBEAT: Final = b": x\\n\\n"',
        ["protocol/test_events.py::test_a_heartbeat_is_a_comment_and_ends_no_block"],
    ),
    Mutation(
        "A block that holds an id alone confuses six clients.",
        "sse_app/delivery/streams.py",
        'self._write(encode_control("sse.cursor", {}, id=cursor))',
        'self._write(f"id: {cursor}\\n\\n".encode())',
        [
            "delivery/test_stream.py::test_a_filtered_stream_moves_its_cursor_over_what_it_does_not_show"
        ],
    ),
    Mutation(
        "fetch-event-source has seen an id once it has read that line, and half a block is none.",
        "sse_app/protocol/events.py",
        'return b"%bid: %b\\n\\n" % (block[:-1], id.encode("ascii"))',
        'return b"id: %b\\n%b" % (id.encode("ascii"), block)',
        ["protocol/test_events.py::test_the_id_is_the_last_line_so_that_half_a_block_moves_nobody"],
    ),
    Mutation(
        "NUL in an id is kept by five clients, and what is not ASCII is sent back in another way.",
        "sse_app/responses.py",
        "        id = validate_id(id)\n",
        "",
        ["doors/test_responses.py::test_a_failure_is_logged_and_ends_the_stream_cleanly"],
    ),
    Mutation(
        "An event with the name of one of the app's own control events would be believed.",
        "sse_app/protocol/events.py",
        '_NAME: Final = re.compile(r"(?!sse\\.)',
        '_NAME: Final = re.compile(r"',
        ["protocol/test_events.py::test_an_invalid_event_name_is_refused_and_shown"],
    ),
    Mutation(
        "Browsers never come back after 4xx and 5xx, so what is passing must be 200.",
        "sse_app/consumers.py",
        "            await self._end_at_once(block)\n",
        "            await self._answer(503, reason)\n",
        ["delivery/test_stream.py::test_a_log_that_is_away_is_busy_and_no_error"],
    ),
    Mutation(
        "What nobody expected would be a 500, after which browsers never come back.",
        "sse_app/asgi.py",
        "EventStreamConsumer.as_asgi(), busy=True)",
        "EventStreamConsumer.as_asgi(), busy=False)",
        ["doors/test_asgi.py::test_an_unexpected_error_before_the_stream_is_busy"],
    ),
    Mutation(
        "The end of a response is an error for some clients, and all come back at once after it.",
        "sse_app/delivery/streams.py",
        "            self._write(closing_block(reason, id, lost, retry=settings().RETRY))\n",
        "            pass\n",
        ["delivery/test_stream.py::test_a_stream_ends_with_its_life_and_goes_on_from_the_farewell"],
    ),
    Mutation(
        "A redirect to the address with a slash breaks two clients.",
        "sse_app/views/route.py",
        '(path,) if path.endswith("/") else (path, f"{path}/")',
        "(path,)",
        ["delivery/test_stream.py::test_other_methods_hosts_and_the_missing_slash"],
    ),
    Mutation(
        "An id that is too long makes browsers ask for permission before they come back.",
        "sse_app/protocol/cursors.py",
        "digest_size=5).digest()",
        "digest_size=30).digest()",
        ["protocol/test_cursors.py::test_the_longest_cursor_of_twenty_groups_fits"],
    ),
    Mutation(
        "What a client sends as its last id may be of any length.",
        "sse_app/protocol/cursors.py",
        "        if len(text) > MAX_BYTES:\n            return None\n",
        "",
        ["protocol/test_cursors.py::test_what_is_no_id_is_none"],
    ),
    Mutation(
        "Half of an id is no id: whoever comes with one must not go on in the wrong place.",
        "sse_app/protocol/cursors.py",
        "            if found is None:\n                return None\n",
        "            if found is None:\n                continue\n",
        ["protocol/test_cursors.py::test_what_is_no_id_is_none"],
    ),
    Mutation(
        "An id of another version says something else.",
        "sse_app/protocol/cursors.py",
        "if version != _VERSION or not parts:",
        "if not parts:",
        ["protocol/test_cursors.py::test_what_is_no_id_is_none"],
    ),
    Mutation(
        "An id that can't be read must be told, and never be an error.",
        "sse_app/delivery/replay.py",
        "    if cursor is None:\n        resets =",
        "    if cursor is None:\n        return Start(now)\n        resets =",
        [
            "delivery/test_stream.py::test_a_cursor_that_can_not_be_continued_is_reset_with_the_reason"
        ],
    ),
    Mutation(
        "A page that loses its connection before its reset has arrived must get it again.",
        "sse_app/delivery/replay.py",
        "            positions[group] = LOST\n",
        "            positions[group] = feed.position(group)\n",
        ["delivery/test_stream.py::test_a_page_that_lost_its_reset_is_reset_again"],
    ),
    Mutation(
        "A page whose id can't be read at all must get its reset again, too.",
        "sse_app/delivery/replay.py",
        "return Start(dict.fromkeys(now, LOST), resets)",
        "return Start(now, resets)",
        ["delivery/test_stream.py::test_a_page_that_lost_its_reset_is_reset_again"],
    ),
    Mutation(
        "$ matches before a line feed, and so does Channels' check of a group's name.",
        "sse_app/protocol/groups.py",
        '[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\\Z", re.ASCII)',
        '[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$", re.ASCII)',
        ["protocol/test_events.py::test_an_invalid_group_is_refused_and_shown"],
    ),
    Mutation(
        "Digits are of many scripts.",
        "sse_app/protocol/groups.py",
        '[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\\Z", re.ASCII)',
        '[A-Za-z\\d][A-Za-z\\d_.-]{0,79}\\Z")',
        ["protocol/test_events.py::test_an_invalid_group_is_refused_and_shown"],
    ),
    Mutation(
        "The groups of the app itself are nobody's to listen to.",
        "sse_app/protocol/groups.py",
        're.compile(r"(?!sse\\.)',
        're.compile(r"',
        ["access/test_admission.py::test_the_control_group_is_nobodys"],
    ),
    Mutation(
        "No middleware of Django's runs before a consumer, ALLOWED_HOSTS included.",
        "sse_app/access/origins.py",
        "        host = request.get_host()\n",
        '        host = request.META.get("HTTP_HOST", "")\n',
        [
            "access/test_origins.py::test_a_host_that_is_not_allowed_may_not_be_asked",
            "delivery/test_stream.py::test_other_methods_hosts_and_the_missing_slash",
        ],
    ),
    Mutation(
        "Channels' check of origins refuses HTTP, and without one any site listens as its visitor.",
        "sse_app/access/origins.py",
        '    raise Refused(403, f"The origin',
        '    Refused(403, f"The origin',
        ["access/test_origins.py::test_the_site_and_the_origin_decide"],
    ),
    Mutation(
        "Images and scripts of other sites send no origin, and the visitor's cookies.",
        "sse_app/access/origins.py",
        "    if origin is None:\n",
        "    if False:\n",
        ["access/test_origins.py::test_the_site_and_the_origin_decide"],
    ),
    Mutation(
        "Whoever is refused by the address alone must cost no query.",
        "sse_app/consumers.py",
        "        options = self._checked(request)\n        address = client_address(self.scope)\n",
        "        address = client_address(self.scope)\n",
        ["access/test_origins.py::test_the_rules_hold_for_streams"],
    ),
    Mutation(
        "A limit that is asked for after the database costs what it is to save.",
        "sse_app/consumers.py",
        "        slots = await LIMITS.admit(address, key)\n        try:\n"
        "            position = await _control_position()\n"
        "            access = await admit(request, self._may_listen, self.fixed_groups)\n",
        "        position = await _control_position()\n"
        "        access = await admit(request, self._may_listen, self.fixed_groups)\n"
        "        slots = await LIMITS.admit(address, key)\n        try:\n",
        ["access/test_limits_live.py::test_limits_are_asked_before_the_database"],
    ),
    Mutation(
        "Another site's page may know a CSRF token that leaked, and the browser says whose it is.",
        "sse_app/views/bodies.py",
        "        refuse_other_sites(request)\n        if _signs_in",
        "        if _signs_in",
        ["access/test_posts.py::test_what_another_sites_page_posts_is_403_before_its_body_is_read"],
    ),
    Mutation(
        "An administrator's browser posts for another site's page, too.",
        "sse_app/access/posts.py",
        "        pattern.callback = _guarded(pattern.callback)\n",
        "        pass\n",
        ["access/test_posts.py::test_the_admins_posts_of_another_site_are_403"],
    ),
    Mutation(
        "A project on a subdomain of its own trusts it by the setting that Django has for that.",
        "sse_app/access/origins.py",
        "if not is_allowed(origin) and not _is_trusted(origin):",
        "if not is_allowed(origin):",
        ["access/test_posts.py::test_a_page_of_a_trusted_origin_may_post"],
    ),
    Mutation(
        "A project may have no authentication middleware, and its pages speak as strangers.",
        "sse_app/views/bodies.py",
        "            request.user = AnonymousUser()\n",
        "            pass\n",
        ["access/test_posts.py::test_without_any_middleware_nothing_is_500"],
    ),
    Mutation(
        "A user whom another middleware signed in may have no session.",
        "sse_app/views/access.py",
        'return getattr(getattr(request, "session", None), "session_key", None) or ""',
        'return request.session.session_key or ""',
        ["access/test_posts.py::test_without_any_middleware_nothing_is_500"],
    ),
    Mutation(
        "Without the secret of the CSRF check all strangers would be one, and share answers.",
        "sse_app/views/send.py",
        "    if secret is None:\n",
        "    if secret == 0:\n",
        [
            "access/test_posts.py::test_a_stranger_of_djangos_test_client_with_an_idempotency_key_is_told"
        ],
    ),
    Mutation(
        "A visitor who drops the cookie is given another session each time.",
        "sse_app/views/throttle.py",
        'return {f"session {session.session_key}": 1, **sessions}',
        'return {f"session {session.session_key}": 1}',
        ["access/test_rates.py::test_a_fresh_session_is_no_fresh_rate"],
    ),
    Mutation(
        "The header Forwarded holds pairs and not addresses, so no client would be found in it.",
        "sse_app/access/addresses.py",
        ' or name.lower() == "forwarded":',
        ":",
        ["access/test_addresses.py::test_a_wrong_setting_is_named"],
    ),
    Mutation(
        "A customer with a /56 has 256 networks of 64 bits.",
        "sse_app/access/addresses.py",
        "return {str(near): 1, str(site): SITE_SHARE}",
        "return {str(near): 1}",
        [
            "access/test_limits.py::test_a_customers_many_ipv6_networks_have_four_times_the_limit",
            "access/test_limits.py::test_all_processes_count_the_networks_of_one_customer",
            "access/test_rates.py::test_a_customers_many_ipv6_networks_share_a_rate",
        ],
    ),
    Mutation(
        "A project may have left out Django's CSRF middleware.",
        "sse_app/views/bodies.py",
        "    checked: Callable[..., HttpResponse] = _csrf_checked(answering)\n",
        "    checked = answering\n",
        ["publishing/test_inbox.py::test_csrf_is_checked_also_without_djangos_middleware"],
    ),
    Mutation(
        "A view that is asked for the stream can only say what is missing in asgi.py.",
        "sse_app/views/stream.py",
        "return HttpResponse(_NOT_WIRED, status=501",
        "return HttpResponse(_NOT_WIRED, status=200",
        [
            "doors/test_settings.py::test_the_stream_asked_of_djangos_own_handler_says_what_is_missing"
        ],
    ),
)
