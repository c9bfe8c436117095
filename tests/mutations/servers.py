"""What ASGI servers do, Daphne first of all."""

from __future__ import annotations

from ..mutations import Mutation

MUTATIONS = (
    Mutation(
        "An exception that leaves an application after its response began ends Daphne's clean-up.",
        "sse_app/asgi.py",
        "if not (busy or self._started):",
        "if True:",
        [
            "doors/test_asgi.py::test_an_exception_after_the_start_ends_the_response_and_escapes_nobody",
            "delivery/test_stream.py::test_an_exception_inside_a_stream_leaves_the_server_healthy",
        ],
    ),
    Mutation(
        "A response that is not ended keeps its client waiting for ever.",
        "sse_app/asgi.py",
        "if self._started and not self._ended:",
        "if False:",
        [
            "doors/test_asgi.py::test_an_exception_after_the_start_ends_the_response_and_escapes_nobody"
        ],
    ),
    Mutation(
        "An exception of a stream that serves already would leave the application, too.",
        "sse_app/asgi.py",
        """\
        except Exception as error:
            logger.exception("An exception ended a stream.", extra=log_fields(error=error))
""",
        "",
        ["doors/test_asgi.py::test_an_exception_of_a_stream_that_serves_already_escapes_nobody"],
    ),
    Mutation(
        "An end that the client does not take would be waited for.",
        "sse_app/asgi.py",
        "async with asyncio.timeout(END_SECONDS):",
        "if True:",
        ["doors/test_asgi.py::test_an_end_that_nobody_takes_is_not_waited_for"],
    ),
    Mutation(
        "One half-sent request lets Daphne stop without telling any application.",
        "sse_app/operations/shutdown.py",
        'reactor.addSystemEventTrigger("before", "shutdown", _close_for_twisted)',
        "pass",
        [
            "delivery/test_stream.py::test_sigterm_says_farewell_to_all_in_spite_of_a_half_sent_request"
        ],
    ),
    Mutation(
        "Python 3.11 crashes at its end if Daphne leaves a pending task on its event loop.",
        "sse_app/operations/shutdown.py",
        "        atexit.register(end_tasks, asyncio.get_running_loop())\n",
        "",
        [
            "operations/test_shutdown.py::"
            "test_a_view_that_takes_longer_loses_its_connection_and_the_process_ends_in_order"
        ],
    ),
    Mutation(
        "A Django that Daphne cancels loses the answer of its sync view.",
        "sse_app/asgi.py",
        """\
            if not Hub.draining:
                task.cancel()
            elif""",
        """\
            task.cancel()
            if""",
        ["operations/test_shutdown.py::test_a_view_under_way_delays_no_stream_and_answers"],
    ),
    Mutation(
        "Daphne's stop does not wait for a view that has not answered.",
        "sse_app/operations/shutdown.py",
        "        unanswered\n        or is_sending()",
        "        is_sending()",
        ["operations/test_shutdown.py::test_a_view_under_way_delays_no_stream_and_answers"],
    ),
    Mutation(
        "A response that streams without end would delay each stop.",
        "sse_app/asgi.py",
        "elif not self._started:",
        "elif True:",
        ["operations/test_shutdown.py::test_a_response_that_has_started_delays_no_stop"],
    ),
    Mutation(
        "After the end of its lifespan a process refuses the streams of the next application.",
        "sse_app/operations/shutdown.py",
        "    Hub.draining = False\n",
        "",
        ["doors/test_asgi.py::test_the_end_of_the_lifespan_is_the_end_of_all_streams"],
    ),
    Mutation(
        "A second cancellation while subscribe() is left keeps the subscription.",
        "sse_app/delivery/subscriber.py",
        """\
        try:
            await asyncio.wait([self._running])
        finally:  # The caller's task may be cancelled a second time.
            await self._hub.leave(self._subscription)
""",
        """\
        await asyncio.wait([self._running])
        await self._hub.leave(self._subscription)
""",
        ["delivery/test_subscriber.py::test_a_second_cancellation_while_it_is_left_keeps_nothing"],
    ),
    Mutation(
        "A cancellation while the last stream leaves stops the hub half way.",
        "sse_app/delivery/hub.py",
        "await asyncio.shield(self._closing)",
        "await self._closing",
        ["delivery/test_subscriber.py::test_a_second_cancellation_while_it_is_left_keeps_nothing"],
    ),
    Mutation(
        "Other servers than Daphne tell the stop to whoever handles the signal, or to nobody.",
        "sse_app/operations/shutdown.py",
        "            _close_on(number)",
        "            pass",
        [
            "servers/test_other_servers.py::"
            "test_a_server_that_stops_says_farewell_and_clients_go_on_from_there"
        ],
    ),
    Mutation(
        "A duty that raises CancelledError or SystemExit would end the reporter without a word.",
        "sse_app/runtime/duties.py",
        "            with contained():\n                seconds = duty()\n",
        "            seconds = duty()\n",
        [
            "operations/test_processes.py::test_what_is_told_to_come_soon_comes_at_once_and_a_duty_that_fails_"
            "is_told_once"
        ],
    ),
    Mutation(
        "Hypercorn's workers get no signal.",
        "sse_app/operations/shutdown.py",
        "_installed.append(spawn(_close_after, stopped))",
        "pass",
        [
            "servers/test_other_servers.py::"
            "test_a_server_that_stops_says_farewell_and_clients_go_on_from_there"
        ],
    ),
    Mutation(
        "Daphne's send() never waits, and keeps whatever a reader does not take.",
        "sse_app/delivery/transports/daphne.py",
        "self._request.registerProducer(self, True)",
        "pass",
        [
            "delivery/test_slow_readers.py::test_readers_that_never_read_cost_little_and_delay_nobody"
        ],
    ),
    Mutation(
        "The send() of other servers does not tell how much waits for a reader.",
        "sse_app/delivery/transports/asgi.py",
        "return len(self._waiting) < limits.QUEUE_EVENTS and self._bytes < limits.QUEUE_BYTES",
        "return limits is not None",
        [
            "servers/test_other_servers.py::test_readers_that_never_read_cost_little_and_delay_nobody"
        ],
    ),
    Mutation(
        "What the server has buffered stays until the reader takes it, unless the connection goes.",
        "sse_app/delivery/transports/daphne.py",
        "            abort(self._request)\n",
        "            pass\n",
        [
            "delivery/test_slow_readers.py::"
            "test_a_reader_that_takes_nothing_is_not_waited_for_when_its_stream_ends"
        ],
    ),
    Mutation(
        "ASGI can't drop a connection, so other servers keep what a dead reader does not take.",
        "sse_app/delivery/transports/asgi.py",
        "                self._abort()\n",
        "                pass\n",
        ["servers/test_other_servers.py::test_a_reader_that_takes_nothing_for_too_long_is_let_go"],
    ),
    Mutation(
        "The kernel keeps megabytes for a reader, and one that vanished for a quarter of an hour.",
        "sse_app/delivery/transports/daphne.py",
        "        bound(self._socket)\n",
        "",
        ["delivery/test_slow_readers.py::test_the_kernel_keeps_little_and_gives_up_on_who_is_gone"],
    ),
    Mutation(
        "Middleware wraps send(), so only the outermost wrapper finds the way to Daphne's request.",
        "sse_app/asgi.py",
        "REQUEST: servers.daphne_request(self._own),",
        "REQUEST: None,",
        ["delivery/test_slow_readers.py::test_the_kernel_keeps_little_and_gives_up_on_who_is_gone"],
    ),
    Mutation(
        "A Daphne whose request is another one some day is to be written to by plain send().",
        "sse_app/delivery/transports/servers.py",
        "return request if all(hasattr(request, name) for name in needed) else None",
        "return request",
        [
            "doors/test_deploy_checks.py::test_a_daphne_whose_request_is_another_one_is_written_to_by_send"
        ],
    ),
    Mutation(
        "Bytes that go past Twisted would overtake those that it has buffered.",
        "sse_app/delivery/transports/daphne.py",
        "if tcp is None or _buffers(tcp):",
        "if tcp is None:",
        [
            "delivery/test_slow_readers.py::test_readers_that_never_read_cost_little_and_delay_nobody"
        ],
    ),
    Mutation(
        "Bytes that go past Twisted would go in the clear under TLS.",
        "sse_app/delivery/transports/daphne.py",
        "return tcp if plain and chunked and isinstance(tcp.getHandle(), socket.socket) else None",
        "return getattr(tcp, 'transport', tcp) if chunked else None",
        ["servers/test_other_ways.py::test_over_tls_a_stream_is_heard_left_and_resumed"],
    ),
    Mutation(
        "HTTP/1.0 and HTTP/2 frame a body in other ways than HTTP/1.1.",
        "sse_app/delivery/transports/daphne.py",
        'getattr(request, "chunked", 0) == 1 and not hasattr(request, "stream_id")',
        "True",
        [
            "delivery/test_slow_readers.py::test_a_client_that_knows_no_chunks_is_served_by_the_ordinary_way"
        ],
    ),
    Mutation(
        "Twisted arms and disarms its writer for every write, which costs more than the write.",
        "sse_app/delivery/transports/daphne.py",
        "self._tcp = plain_tcp(self._request)",
        "self._tcp = None",
        [
            "delivery/test_cohorts.py::test_streams_on_daphne_are_written_to_as_one_and_a_sleeper_is_not"
        ],
    ),
    Mutation(
        "A proxy that buffers passes events on only when the response has ended.",
        "sse_app/delivery/streams.py",
        "        if self._brief and self._live:\n",
        "        if False:\n",
        [
            "delivery/test_stream.py::test_a_response_that_is_to_be_short_ends_after_its_first_events"
        ],
    ),
    Mutation(
        "A cohort writes to the socket, and a stream does not see these bytes.",
        "sse_app/delivery/streams.py",
        "return None if self._brief else self._transport.direct()",
        "return self._transport.direct()",
        [
            "delivery/test_stream.py::test_a_response_that_is_to_be_short_ends_after_its_first_events"
        ],
    ),
    Mutation(
        "Each stream would be visited each second, whether something of it is due or not.",
        "sse_app/delivery/streams.py",
        "        return min(check_at, self._ends_at, expires_at, self._beat(now))\n",
        "        self._beat(now)\n        return now\n",
        [
            "delivery/test_timers.py::test_the_members_of_a_cohort_are_not_visited_and_share_one_heartbeat",
            "delivery/test_timers.py::test_streams_of_own_groups_are_visited_for_their_heartbeats_only",
        ],
    ),
    Mutation(
        "Each member of a cohort would be visited for the heartbeat that the cohort sends to all.",
        "sse_app/delivery/streams.py",
        "        if subscription.cohort is not None:\n            return inf\n        # A cohort",
        "        # A cohort",
        [
            "delivery/test_timers.py::test_the_members_of_a_cohort_are_not_visited_and_share_one_heartbeat"
        ],
    ),
    Mutation(
        "A timer that is set to a later time would delay what is due earlier.",
        "sse_app/delivery/timers.py",
        "            if timed.timer[0] <= when:\n",
        "            if False:\n",
        ["delivery/test_timers.py::test_the_earliest_time_counts_and_a_call_returns_the_next"],
    ),
    Mutation(
        "A time that has passed would call the same stream again and again within one tick.",
        "sse_app/delivery/timers.py",
        "                self.at(max(later, _tick(timed, now)), timed)\n",
        "                self.at(_tick(timed, now), timed)\n",
        ["delivery/test_timers.py::test_the_earliest_time_counts_and_a_call_returns_the_next"],
    ),
    Mutation(
        "Cancelled timers of a site with many short streams would pile up for hours.",
        "sse_app/delivery/timers.py",
        "        if len(self._heap) > 2 * len(self._timed) + CANCELLED:\n",
        "        if False:\n",
        ["delivery/test_timers.py::test_a_cancelled_one_is_not_called_and_not_kept"],
    ),
    Mutation(
        "A stream that has ended would stay in memory until its timer fires.",
        "sse_app/delivery/streams.py",
        "            self.hub.timers.cancel(self)\n",
        "            pass\n",
        ["delivery/test_timers.py::test_a_stream_or_cohort_that_has_ended_has_no_timer"],
    ),
    Mutation(
        "A report would ask each stream of the process for its state.",
        "sse_app/operations/reports.py",
        "sink for hub in running_hubs() for sink in list(hub.behind)}",
        "sink.sink for hub in running_hubs() for sink in list(hub.subscriptions)}",
        ["delivery/test_timers.py::test_a_report_asks_only_the_streams_that_are_not_live"],
    ),
    Mutation(
        "A report would ask each stream of the process for its unsent bytes.",
        "sse_app/operations/reports.py",
        "sum(sink.queue for hub in running_hubs() for sink in list(hub.sending))",
        "sum(stream.queue for stream in streams())",
        ["delivery/test_timers.py::test_a_report_asks_only_the_streams_that_are_not_live"],
    ),
    Mutation(
        "A member whose last write is older than its cohort's would get a late heartbeat.",
        "sse_app/delivery/cohorts.py",
        "min(self.written_at, subscription.sink.joined_cohort(self.bytes))",
        "max(self.written_at, subscription.sink.joined_cohort(self.bytes))",
        [
            "delivery/test_timers.py::test_a_member_that_has_waited_longer_than_its_cohort_gets_its_heartbeat_in_time"
        ],
    ),
    Mutation(
        "A stream that has left its cohort would be visited only when its life ends.",
        "sse_app/delivery/streams.py",
        "            self._write(pending)\n        self._visit_by(self._written_at)\n",
        "            self._write(pending)\n",
        [
            "delivery/test_timers.py::test_a_member_that_wrote_alone_or_was_slow_joins_its_cohort_again"
        ],
    ),
    Mutation(
        "A member that was slow for a moment would stay alone until its next heartbeat.",
        "sse_app/delivery/streams.py",
        "        return now if waiting else self._written_at + settings().HEARTBEAT\n",
        "        return self._written_at + settings().HEARTBEAT\n",
        [
            "delivery/test_timers.py::test_a_member_that_wrote_alone_or_was_slow_joins_its_cohort_again"
        ],
    ),
    Mutation(
        "The end of a right is a time by the system's clock, which can be set.",
        "sse_app/delivery/hub.py",
        "        if abs(_clock_offset() - self._clock_offset) > CLOCK_SECONDS:\n",
        "        if False:\n",
        [
            "delivery/test_timers.py::test_a_stream_expires_when_the_clock_of_the_system_is_set_forward"
        ],
    ),
    Mutation(
        "Thousands of streams that are due at once would hold up the event loop.",
        "sse_app/delivery/hub.py",
        "            more = self.timers.run(now, TICKS)\n",
        "            more = self.timers.run(now, 10**9)\n",
        ["delivery/test_timers.py::test_many_that_are_due_at_once_let_other_tasks_run_in_between"],
    ),
    Mutation(
        "A stalled client would be found only at the stream's next heartbeat.",
        "sse_app/delivery/transports/daphne.py",
        "        self.on_waiting(self._paused_at + settings().STALL_SECONDS)\n",
        "",
        [
            "delivery/test_timers.py::test_a_transport_that_daphne_pauses_is_checked_when_it_may_have_stalled"
        ],
    ),
    Mutation(
        "A stalled client would be found only at the stream's next heartbeat. On any server.",
        "sse_app/delivery/transports/asgi.py",
        "            self.on_waiting(self._since + settings().STALL_SECONDS)\n",
        "",
        ["delivery/test_timers.py::test_the_first_that_waits_is_checked_when_it_may_have_stalled"],
    ),
    Mutation(
        "A flush may remove the last member, and with it the cohort that a stream is joining.",
        "sse_app/delivery/cohorts.py",
        "        self.flush()\n"
        "        for topic in self._topics:\n"
        "            # Set here and not when the cohort is made: "
        "the flush may have removed the last member.\n"
        "            topic.cohorts[self._kind] = self\n",
        "        for topic in self._topics:\n"
        "            topic.cohorts[self._kind] = self\n"
        "        self.flush()\n"
        "        for topic in self._topics:\n",
        [
            "delivery/test_timers.py::test_who_joins_while_the_last_member_is_lost_is_in_a_cohort_that_gets_events"
        ],
    ),
    Mutation(
        "Streams with and without pings get other heartbeats, so they can't be written to as one.",
        "sse_app/delivery/subscriptions.py",
        "Kind(self.groups, **flags)",
        "Kind(self.groups, flags.get('labelled', False))",
        [
            "delivery/test_timers.py::test_the_pings_of_a_cohort_carry_the_id_once_and_others_get_comments"
        ],
    ),
    Mutation(
        "Daphne visits each open stream each second, to find applications that have ended.",
        "sse_app/delivery/transports/daphne_connections.py",
        "        connections.skip(request)\n",
        "",
        [
            "delivery/test_timers.py::test_daphne_does_not_go_through_open_streams_and_forgets_them_when_they_end"
        ],
    ),
    Mutation(
        "Daphne would keep the connection of each stream that has ended.",
        "sse_app/delivery/transports/daphne_connections.py",
        "        application.add_done_callback(lambda _: check(request))\n",
        "",
        [
            "delivery/test_timers.py::test_daphne_does_not_go_through_open_streams_and_forgets_them_when_they_end"
        ],
    ),
    Mutation(
        "The option --http-timeout of Daphne would not end streams.",
        "sse_app/delivery/transports/daphne_connections.py",
        ' or getattr(server, "http_timeout", None)',
        "",
        [
            "delivery/test_timers.py::test_daphne_ends_a_stream_after_the_time_that_its_option_allows"
        ],
    ),
    Mutation(
        "Each request of the site would be resolved on the event loop, and then again by Django.",
        "sse_app/views/route.py",
        "if not any(_fits(path, chain) for path in candidates for chain in self._chains):",
        "if False:",
        [
            "views/test_route.py::test_ordinary_requests_are_not_resolved_and_a_stream_is_resolved_once",
            "views/test_route.py::test_a_converter_of_the_project_does_not_have_all_requests_resolved",
        ],
    ),
    Mutation(
        "Each stream would be resolved through all URL patterns that stand before its own.",
        "sse_app/views/route.py",
        "            self._kept[key] = found\n",
        "            pass\n",
        [
            "views/test_route.py::test_ordinary_requests_are_not_resolved_and_a_stream_is_resolved_once"
        ],
    ),
    Mutation(
        "Any client could fill the memory with paths.",
        "sse_app/views/route.py",
        "            if len(self._kept) >= KEPT:\n",
        "            if False:\n",
        ["views/test_route.py::test_no_more_than_a_number_of_answers_is_kept"],
    ),
    Mutation(
        "The same path is the stream's in one language only.",
        "sse_app/views/route.py",
        "        key = next(iter(candidates)), get_language()\n",
        "        key = next(iter(candidates)), None\n",
        [
            "views/test_route.py::test_a_path_is_the_streams_exactly_if_django_resolves_it_to_the_stream"
        ],
    ),
    Mutation(
        "A project's own converter may give another answer the next time.",
        "sse_app/views/route.py",
        "        self._is_known = self._is_known and _is_known(entry.pattern)\n",
        "",
        [
            "views/test_route.py::test_a_path_is_the_streams_exactly_if_django_resolves_it_to_the_stream"
        ],
    ),
    Mutation(
        "A resolver of another package may have other patterns for each language.",
        "sse_app/views/route.py",
        "            self._is_known = False\n            yield before\n            return\n",
        "            return\n",
        [
            "views/test_route.py::test_a_path_is_the_streams_exactly_if_django_resolves_it_to_the_stream"
        ],
    ),
    Mutation(
        "A pattern before the stream's may take the path.",
        "sse_app/views/route.py",
        "        found = _resolved(candidates)\n",
        "        found = stream\n",
        [
            "views/test_route.py::test_a_path_is_the_streams_exactly_if_django_resolves_it_to_the_stream"
        ],
    ),
    Mutation(
        "Behind i18n_patterns() a page has its language in the path, before any middleware ran.",
        "sse_app/views/route.py",
        "get_language_from_path(path) if routes.has_languages else None",
        "None",
        [
            "views/test_route.py::test_a_path_is_the_streams_exactly_if_django_resolves_it_to_the_stream"
        ],
    ),
    Mutation(
        "A middleware may choose the URLconf that has the stream.",
        "sse_app/views/stream.py",
        "    if leave is not None:\n",
        "    if False:\n",
        ["doors/test_asgi.py::test_a_stream_that_only_djangos_middleware_finds_is_served"],
    ),
    Mutation(
        "The server's log shows no grant of a stream that Django's handler found.",
        "sse_app/asgi.py",
        "asked = scope if view is stream else dict(scope)",
        "asked = scope",
        ["doors/test_asgi.py::test_a_stream_that_only_djangos_middleware_finds_is_served"],
    ),
    Mutation(
        "A load balancer names no host of ALLOWED_HOSTS, and speaks plain HTTP.",
        "sse_app/asgi.py",
        'elif (view := view_of(scope)) is health and scope["method"] in ("GET", "HEAD"):',
        "elif (view := view_of(scope)) and False:",
        ["doors/test_asgi.py::test_the_health_is_told_for_any_host_and_scheme"],
    ),
    Mutation(
        "Django's LoginRequiredMiddleware sends programs to a login page.",
        "sse_app/urls.py",
        "    login_not_required(_endpoint.callback)\n",
        "    pass\n",
        ["views/test_bodies.py::test_no_endpoint_needs_a_login_of_the_middleware"],
    ),
    Mutation(
        "Behind an error reporter, readers that take nothing were kept for ever.",
        "sse_app/delivery/transports/servers.py",
        "        waiting.extend(_called_by(function))\n",
        "",
        ["delivery/test_transports.py::test_the_servers_own_send_is_found_behind_wrappers"],
    ),
    Mutation(
        "Where Daphne's send can't be found, the log says which order works.",
        "sse_app/asgi.py",
        'if busy and REQUEST not in inner["extensions"]:',
        "if False:",
        [
            "hosts/test_wrappers.py::test_a_wrapper_that_hides_the_servers_send_is_told_once_with_the_order_that_works"
        ],
    ),
    Mutation(
        "GZipMiddleware compresses each event by itself, and browsers show the first.",
        "sse_app/responses.py",
        'NOT_COMPRESSED: Final = {"Content-Encoding": "identity"}',
        "NOT_COMPRESSED: Final[dict[str, str]] = {}",
        ["doors/test_responses.py::test_gzip_leaves_a_stream_alone"],
    ),
    Mutation(
        "Each write costs a system call, so those of one turn of the event loop go as one.",
        "sse_app/delivery/transports/daphne.py",
        "if self._size > FLUSH_BYTES:",
        "if self._size:",
        ["delivery/test_slow_readers.py::test_what_is_published_in_one_turn_leaves_in_one_write"],
    ),
    Mutation(
        "Daphne notices after ten seconds, by force, that the client of whoever asks nobody left.",
        "sse_app/delivery/transports/daphne.py",
        "        self._request.notifyFinish().addBoth(self._gone)\n",
        "",
        ["delivery/test_stream.py::test_a_disconnect_is_noticed_at_once"],
    ),
    Mutation(
        "Under TLS, too, the disconnect of a client is told late to whoever does not ask.",
        "sse_app/delivery/transports/daphne.py",
        "            self._watch()\n",
        "",
        ["servers/test_other_ways.py::test_over_tls_a_stream_is_heard_left_and_resumed"],
    ),
    Mutation(
        "Other servers tell that a client left to whoever receives.",
        "sse_app/delivery/transports/asgi.py",
        "        self._watch()\n",
        "        pass\n",
        ["servers/test_other_servers.py::test_a_disconnect_is_noticed"],
    ),
    Mutation(
        "A client that went on sending and then left is noticed by the next write only.",
        "sse_app/delivery/streams.py",
        "self._write(subscription.kind.heartbeat(subscription.positions, self._pinged))",
        "pass",
        ["delivery/test_stream.py::test_a_client_that_goes_on_sending_and_leaves_is_noticed"],
    ),
    Mutation(
        "With Daphne's backlog of fifty, most of a crowd that comes back at once is not let in.",
        "docs/operations/deploy.md",
        ":interface=127.0.0.1:backlog=4096",
        ":interface=127.0.0.1",
        ["servers/test_deploy.py::test_a_crowd_that_comes_at_once_is_let_in"],
    ),
    Mutation(
        "HTTP/2 and proxies close what is silent for a minute.",
        "sse_app/conf.py",
        "HEARTBEAT: float = 15.0",
        "HEARTBEAT: float = 90.0",
        [
            "handbook/test_docs.py::test_every_setting_is_documented_once_with_its_default_and_no_other_is"
        ],
    ),
    Mutation(
        "Any --http-timeout ends streams, and no check sees the command line of a server.",
        "sse_app/delivery/transports/servers.py",
        "    if timeout:\n",
        "    if False:\n",
        [
            "doors/test_deploy_checks.py::test_a_daphne_with_options_that_hurt_streams_says_so_once",
        ],
    ),
    Mutation(
        "What starts the server can be looked at before it runs.",
        "sse_app/checks/deployment.py",
        "    _http_timeout,\n",
        "",
        ["doors/test_deploy_checks.py::test_a_start_command_with_a_timeout_is_named"],
    ),
    Mutation(
        "Daphne sends the later chunks of a body to a HEAD request, too.",
        "sse_app/consumers.py",
        'if request.method != "GET":',
        'if request.method == "OPTIONS":',
        ["delivery/test_stream.py::test_head_is_answered_by_the_head_alone_and_ends"],
    ),
    Mutation(
        "The stream of an ordinary view would begin for a HEAD request, too, and never end.",
        "sse_app/responses.py",
        "            iterable = _nothing()  "
        "# The answer has no body, and `events` might never end.\n",
        "            pass\n",
        ["doors/test_responses.py::test_nothing_is_begun_for_a_head_request"],
    ),
    Mutation(
        "Daphne's access log prints query strings, and there are tickets in them.",
        "sse_app/asgi.py",
        "        request.uri = _SECRET.sub(_REDACTED, uri)\n",
        "        pass\n",
        ["access/test_admission.py::test_tickets_and_grants_stay_out_of_the_access_log"],
    ),
    Mutation(
        "The access logs of other servers print the query string that is in the scope.",
        "sse_app/asgi.py",
        'scope["query_string"] = _SECRET.sub(_REDACTED, query)',
        "pass",
        ["servers/test_other_servers.py::test_what_opens_a_stream_is_not_in_the_access_log"],
    ),
    Mutation(
        "Any client chooses the mount point of a site on Daphne, by a header.",
        "sse_app/delivery/transports/daphne_requests.py",
        "        request.requestHeaders.removeHeader(ROOT_PATH)\n",
        "",
        ["delivery/test_daphne_requests.py::test_no_visitor_chooses_the_mount_point_of_the_site"],
    ),
    Mutation(
        "A Daphne that was imported late has believed the header of its first requests.",
        "sse_app/asgi.py",
        "        daphne_requests.correct(scope, servers.own_send(send))\n",
        "",
        [
            "delivery/test_daphne_requests.py::"
            "test_a_request_that_came_before_daphne_was_prepared_is_corrected"
        ],
    ),
    Mutation(
        "Twisted parses forms on the event loop, before any application is asked.",
        "sse_app/apps.py",
        "        daphne_requests.install()\n",
        "",
        [
            "delivery/test_daphne_requests.py::test_what_a_broken_form_is_answered_is_the_views_business"
        ],
    ),
    Mutation(
        "A later Daphne may receive requests in a way that must not be replaced.",
        "sse_app/delivery/transports/daphne_requests.py",
        "if kind.requestReceived is not module.http.Request.requestReceived:",
        "if False:",
        [
            "delivery/test_daphne_requests.py::"
            "test_a_daphne_that_receives_in_another_way_is_left_as_it_is_and_named"
        ],
    ),
    Mutation(
        "Daphne keeps the file of a body that came with a GET until the response ends.",
        "sse_app/delivery/transports/daphne.py",
        "        self._request.content.close()\n",
        "",
        ["delivery/test_daphne_requests.py::test_a_body_that_came_with_a_stream_is_not_kept"],
    ),
    Mutation(
        "Daphne puts a body into a queue that nobody reads while a stream is open.",
        "sse_app/delivery/transports/daphne.py",
        "            queue.get_nowait()\n",
        "            break\n",
        ["delivery/test_daphne_requests.py::test_a_body_that_came_with_a_stream_is_not_kept"],
    ),
    Mutation(
        "Django looks for views below FORCE_SCRIPT_NAME, so the stream must be looked for there.",
        "sse_app/asgi.py",
        "removeprefix(get_script_prefix(scope))",
        'removeprefix(scope.get("root_path", ""))',
        ["doors/test_asgi.py::test_the_stream_is_found_below_the_script_name_of_the_settings"],
    ),
    Mutation(
        "nginx passes on every header of a client that it is not told to remove.",
        "docs/operations/deploy.md",
        '    proxy_set_header Daphne-Root-Path "";\n',
        "",
        ["servers/test_deploy.py::test_no_client_sends_a_mount_point_through_the_proxy"],
    ),
    Mutation(
        "Caddy has no limit for bodies of its own.",
        "docs/operations/deploy.md",
        "\t\tmax_size 1MB\n",
        "\t\tmax_size 1GB\n",
        ["servers/test_deploy.py::test_the_proxy_refuses_what_is_too_long_for_daphne_to_hold"],
    ),
    Mutation(
        "A replica may still have a right that has ended.",
        "sse_app/conf.py",
        ".using(router.db_for_write(model))",
        ".all()",
        [
            "doors/test_settings.py::test_rows_are_read_where_they_are_written_and_not_from_a_replica"
        ],
    ),
    Mutation(
        "A relative STATIC_URL gets the script prefix of the first request of a process.",
        "sse_app/checks/deployment.py",
        "    _relative_urls,\n",
        "",
        ["doors/test_deploy_checks.py::test_a_relative_url_of_files_is_named"],
    ),
    Mutation(
        "A parser that recurses ends the process where the stack of its thread is small.",
        "sse_app/views/bodies.py",
        "        _refuse_depth(sent)\n",
        "",
        ["views/test_bodies.py::test_depth_is_refused_before_anything_recurses"],
    ),
    Mutation(
        "requirements.txt and pyproject.toml are edited by people who know one of them.",
        "requirements.txt",
        "redis[hiredis]>=5\n",
        "",
        ["doors/test_package.py::test_the_requirements_are_those_of_the_project"],
    ),
    Mutation(
        "Daphne before 4.2.2 has known security holes.",
        "pyproject.toml",
        '"daphne>=4.2.2,<5"',
        '"daphne<5"',
        ["doors/test_package.py::test_no_package_with_known_holes_is_installed_with_the_app"],
    ),
    Mutation(
        "An old Django, Daphne or Twisted may be installed by another way.",
        "sse_app/checks/deployment.py",
        "    _versions,\n",
        "",
        ["doors/test_deploy_checks.py::test_a_package_with_known_holes_is_named_with_its_floor"],
    ),
)
