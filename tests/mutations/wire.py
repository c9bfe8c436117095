"""What clients make of a stream, names of groups and events, and who may ask from where."""

from __future__ import annotations

from . import Mutation

MUTATIONS = (
    Mutation(
        "CR ends a line for one client and not for another, and CRLF that is cut breaks two.",
        "sse_app/events.py",
        'return text.replace("\\r\\n", "\\n").replace("\\r", "\\n") if "\\r" in text else text',
        "return text",
        [
            "test_events.py::test_the_data_of_an_event_is_what_clients_will_see",
            "test_events.py::test_an_event_comes_out_of_a_parser_as_it_went_in",
        ],
    ),
    Mutation(
        "str.splitlines() splits at eight characters that end no line of a stream.",
        "sse_app/events.py",
        'lines = _with_line_feeds(text).replace("\\n", "\\ndata: ")',
        'lines = "\\ndata: ".join(text.splitlines())',
        [
            "test_events.py::test_awkward_text_survives",
            "test_events.py::test_an_event_comes_out_of_a_parser_as_it_went_in",
        ],
    ),
    Mutation(
        "A comment with a blank line after it is an empty message for fetch-event-source.",
        "sse_app/events.py",
        'HEARTBEAT: Final = b":\\n"',
        'HEARTBEAT: Final = b": x\\n\\n"',
        ["test_events.py::test_a_heartbeat_is_a_comment_and_ends_no_block"],
    ),
    Mutation(
        "A block that holds an id alone confuses six clients.",
        "sse_app/streams.py",
        'self._write(encode_control("sse.cursor", {}, id=cursor))',
        'self._write(f"id: {cursor}\\n\\n".encode())',
        ["test_stream.py::test_a_filtered_stream_moves_its_cursor_over_what_it_does_not_show"],
    ),
    Mutation(
        "fetch-event-source has seen an id once it has read that line, and half a block is none.",
        "sse_app/events.py",
        'return b"%bid: %b\\n\\n" % (block[:-1], id.encode("ascii"))',
        'return b"id: %b\\n%b" % (id.encode("ascii"), block)',
        ["test_events.py::test_the_id_is_the_last_line_so_that_half_a_block_moves_nobody"],
    ),
    Mutation(
        "NUL in an id is kept by five clients, and what is not ASCII is sent back in another way.",
        "sse_app/responses.py",
        "        id = validate_id(id)\n",
        "",
        ["test_responses.py::test_a_failure_is_logged_and_ends_the_stream_cleanly"],
    ),
    Mutation(
        "An event with the name of one of the app's own control events would be believed.",
        "sse_app/events.py",
        '_NAME: Final = re.compile(r"(?!sse\\.)',
        '_NAME: Final = re.compile(r"',
        ["test_events.py::test_an_invalid_event_name_is_refused_and_shown"],
    ),
    Mutation(
        "Browsers never come back after 4xx and 5xx, so what is passing must be 200.",
        "sse_app/consumers.py",
        "            await self._end_at_once(block(str(passing)))\n",
        "            await self._answer(503, str(passing))\n",
        ["test_stream.py::test_a_log_that_is_away_is_busy_and_no_error"],
    ),
    Mutation(
        "What nobody expected would be a 500, after which browsers never come back.",
        "sse_app/asgi.py",
        "EventStreamConsumer.as_asgi(), busy=True)",
        "EventStreamConsumer.as_asgi(), busy=False)",
        ["test_asgi.py::test_an_unexpected_error_before_the_stream_is_busy"],
    ),
    Mutation(
        "The end of a response is an error for some clients, and all come back at once after it.",
        "sse_app/streams.py",
        "            self._write(farewell(reason, id))\n",
        "            pass\n",
        ["test_stream.py::test_a_stream_ends_with_its_life_and_goes_on_from_the_farewell"],
    ),
    Mutation(
        "A redirect to the address with a slash breaks two clients.",
        "sse_app/asgi.py",
        'for candidate in (path,) if path.endswith("/") else (path, f"{path}/"):',
        "for candidate in (path,):",
        ["test_stream.py::test_other_methods_hosts_and_the_missing_slash"],
    ),
    Mutation(
        "An id that is too long makes browsers ask for permission before they come back.",
        "sse_app/cursors.py",
        "digest_size=5).digest()",
        "digest_size=30).digest()",
        ["test_cursors.py::test_the_longest_cursor_of_twenty_groups_fits"],
    ),
    Mutation(
        "What a client sends as its last id may be of any length.",
        "sse_app/cursors.py",
        "        if len(text) > MAX_BYTES:\n            return None\n",
        "",
        ["test_cursors.py::test_what_is_no_id_is_none"],
    ),
    Mutation(
        "Half of an id is no id: whoever comes with one must not go on in the wrong place.",
        "sse_app/cursors.py",
        "            if found is None:\n                return None\n",
        "            if found is None:\n                continue\n",
        ["test_cursors.py::test_what_is_no_id_is_none"],
    ),
    Mutation(
        "An id of another version says something else.",
        "sse_app/cursors.py",
        "if version != _VERSION or not parts:",
        "if not parts:",
        ["test_cursors.py::test_what_is_no_id_is_none"],
    ),
    Mutation(
        "An id that can't be read must be told, and never be an error.",
        "sse_app/replay.py",
        "    if cursor is None:\n        resets =",
        "    if cursor is None:\n        return Start(now)\n        resets =",
        ["test_stream.py::test_a_cursor_that_can_not_be_continued_is_reset_with_the_reason"],
    ),
    Mutation(
        "A page that loses its connection before its reset has arrived must get it again.",
        "sse_app/replay.py",
        "            positions[group] = LOST\n",
        "            positions[group] = hub.position(group)\n",
        ["test_stream.py::test_a_page_that_lost_its_reset_is_reset_again"],
    ),
    Mutation(
        "A page whose id can't be read at all must get its reset again, too.",
        "sse_app/replay.py",
        "return Start(dict.fromkeys(now, LOST), resets)",
        "return Start(now, resets)",
        ["test_stream.py::test_a_page_that_lost_its_reset_is_reset_again"],
    ),
    Mutation(
        "$ matches before a line feed, and so does Channels' check of a group's name.",
        "sse_app/groups.py",
        '[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\\Z", re.ASCII)',
        '[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$", re.ASCII)',
        ["test_events.py::test_an_invalid_group_is_refused_and_shown"],
    ),
    Mutation(
        "Digits are of many scripts.",
        "sse_app/groups.py",
        '[A-Za-z0-9][A-Za-z0-9_.-]{0,79}\\Z", re.ASCII)',
        '[A-Za-z\\d][A-Za-z\\d_.-]{0,79}\\Z")',
        ["test_events.py::test_an_invalid_group_is_refused_and_shown"],
    ),
    Mutation(
        "The groups of the app itself are nobody's to listen to.",
        "sse_app/groups.py",
        're.compile(r"(?!sse\\.)',
        're.compile(r"',
        ["test_access.py::test_the_control_group_is_nobodys"],
    ),
    Mutation(
        "No middleware of Django's runs before a consumer, ALLOWED_HOSTS included.",
        "sse_app/origins.py",
        "        host = request.get_host()\n",
        '        host = request.META.get("HTTP_HOST", "")\n',
        [
            "test_origins.py::test_a_host_that_is_not_allowed_may_not_be_asked",
            "test_stream.py::test_other_methods_hosts_and_the_missing_slash",
        ],
    ),
    Mutation(
        "Channels' check of origins refuses HTTP, and without one any site listens as its visitor.",
        "sse_app/origins.py",
        '    raise Forbidden(403, f"The origin',
        '    Forbidden(403, f"The origin',
        ["test_origins.py::test_the_site_and_the_origin_decide"],
    ),
    Mutation(
        "Images and scripts of other sites send no origin, and the visitor's cookies.",
        "sse_app/origins.py",
        "    if origin is None:\n",
        "    if False:\n",
        ["test_origins.py::test_the_site_and_the_origin_decide"],
    ),
    Mutation(
        "Whoever is refused by the address alone must cost no query.",
        "sse_app/consumers.py",
        "        self._accept(request)\n        address = client_address(self.scope)\n",
        "        address = client_address(self.scope)\n",
        ["test_origins.py::test_the_rules_hold_for_streams"],
    ),
    Mutation(
        "A limit that is asked for after the database costs what it is to save.",
        "sse_app/consumers.py",
        "        places = await LIMITS.admit(address, key)\n        try:\n"
        "            heard = await _heard_so_far()\n"
        "            access = await admit(request, self._may_listen, self.fixed_groups)\n",
        "        heard = await _heard_so_far()\n"
        "        access = await admit(request, self._may_listen, self.fixed_groups)\n"
        "        places = await LIMITS.admit(address, key)\n        try:\n",
        ["test_limits_live.py::test_limits_are_asked_before_the_database"],
    ),
    Mutation(
        "A project may have left out Django's CSRF middleware.",
        "sse_app/views.py",
        "@csrf_protect\n@require_POST\n@answers_refusals\ndef send(",
        "@require_POST\n@answers_refusals\ndef send(",
        ["test_inbox.py::test_csrf_is_checked_also_without_djangos_middleware"],
    ),
    Mutation(
        "A view that is asked for the stream can only say what is missing in asgi.py.",
        "sse_app/views.py",
        "return HttpResponse(_NOT_WIRED, status=501",
        "return HttpResponse(_NOT_WIRED, status=200",
        ["test_settings.py::test_the_stream_asked_of_djangos_own_handler_says_what_is_missing"],
    ),
)
