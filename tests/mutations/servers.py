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
        "sse_app/operations/reporter.py",
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
        "REQUEST: servers.daphne_request(self._send),",
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
        "            self._write(self._heartbeat())\n",
        "            pass\n",
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
        "        daphne_requests.correct(scope, send)\n",
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
        "redis>=5\n",
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
