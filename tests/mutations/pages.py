"""The page's end of a stream, `sse.js`."""

from __future__ import annotations

from ..mutations import Mutation

SCRIPT = "sse_app/static/sse_app/sse.js"
RELOAD = "sse_app/static/sse_app/reload.js"
LIVE = "sse_app/static/sse_app/live.js"
COLLECTION = "sse_app/static/sse_app/collection.js"

MUTATIONS = (
    Mutation(
        "A tag whose variable is missing says that '' is no name, and not which variable is empty.",
        "sse_app/templatetags/sse.py",
        '        if argument is None or argument == "":\n',
        "        if False:\n",
        ["handbook/test_mistakes.py::test_a_mistake_leads_to_its_cure"],
    ),
    Mutation(
        "A misspelled event name leads to a page that stays as it is, without a word.",
        "sse_app/static/sse_app/debug.js",
        "if (!shown.has(text)) console.info(text);",
        "",
        ["browser/test_debug.py::test_the_console_names_unheard_events_and_refused_groups"],
    ),
    Mutation(
        "A developer sees that a stream is not permitted, and not which group or how to permit it.",
        "sse_app/consumers.py",
        "if refused.hint and django_settings.DEBUG:",
        "if False:",
        ["handbook/test_mistakes.py::test_a_refused_request_says_why"],
    ),
    Mutation(
        "Visitors of a site in production are told how it grants its groups.",
        "sse_app/consumers.py",
        "if refused.hint and django_settings.DEBUG:",
        "if refused.hint:",
        ["handbook/test_mistakes.py::test_visitors_in_production_are_not_told_the_hint"],
    ),
    Mutation(
        "Of the tabs that share a stream only the one that spoke is to hear the reply.",
        SCRIPT,
        "    if (ids && !ids.includes(this.id)) return;\n",
        "",
        [
            "browser/test_script_tabs.py::test_of_the_tabs_that_share_a_stream_only_the_one_that_spoke_hears"
        ],
    ),
    Mutation(
        "Browsers open six HTTP/1.1 connections to a host over all tabs.",
        SCRIPT,
        "this.#path = shares && this.url.origin === location.origin",
        "this.#path = false",
        [
            "browser/test_script_tabs.py::"
            "test_ten_tabs_are_one_connection_and_all_live_on_when_the_leader_closes"
        ],
    ),
    Mutation(
        "A tab that leaves while its groups are refused closes the streams of the other tabs.",
        SCRIPT,
        "this.#dismiss(line.ids.length > 1 ? {} : { reason });",
        "this.#dismiss(this.#members.size > 1 ? {} : { reason });",
        [
            "browser/test_script_users.py::"
            "test_a_refusal_of_streams_that_have_left_does_not_close_the_others"
        ],
    ),
    Mutation(
        "The server refuses an empty key, so a message that is sent without one would be lost.",
        SCRIPT,
        '...(key && { "Idempotency-Key": key }),',
        '"Idempotency-Key": key,',
        [
            "browser/test_browser.py::"
            "test_who_types_is_shown_until_it_is_said_and_a_command_is_answered_to_one_page"
        ],
    ),
    Mutation(
        "A connection that dies without a word ends in no error.",
        SCRIPT,
        "    this.#timer = setTimeout(() => this.#abort.abort(), ms);\n",
        "",
        ["browser/test_script_network.py::test_a_server_that_falls_silent_is_noticed"],
    ),
    Mutation(
        "An EventSource gives up for good after an answer that is no stream.",
        SCRIPT,
        "if (status !== 200) return !passes(status);",
        "if (status !== 200) return true;",
        ["browser/test_script_network.py::test_answers_that_are_no_stream_are_tried_again"],
    ),
    Mutation(
        "After a logout a page that comes back would be refused for ever.",
        SCRIPT,
        "const over = /^(auth|end)$/.test(reason);",
        "const over = /^(end)$/.test(reason);",
        ["browser/test_script_network.py::test_a_logout_closes_the_streams_of_all_tabs"],
    ),
    Mutation(
        "Pages of another user would get what the server refuses theirs.",
        SCRIPT,
        "      if (user !== this.#user) {\n",
        '      if (user !== this.#user && t === "lead") {\n',
        ["browser/test_script_users.py::test_a_session_that_changed_without_a_word_is_not_shared"],
    ),
    Mutation(
        "The server knows whose connection it is, and a page may be old.",
        SCRIPT,
        "    if (whose !== this.#user) return this.#dismiss({ whose });\n",
        "",
        [
            "browser/test_script_users.py::test_a_page_from_a_cache_is_whose_session_it_is",
            "browser/test_script_users.py::"
            "test_pages_that_do_not_say_whose_they_are_share_once_the_server_has_said_it",
        ],
    ),
    Mutation(
        "An old page of a stranger keeps a connection of its own after a login.",
        SCRIPT,
        'return t === "lead" && user !== undefined && this.#leads && this.#open();',
        "return;",
        [
            "browser/test_script_users.py::"
            "test_a_stranger_who_signs_in_keeps_every_event_and_comes_to_share_with_the_new_page"
        ],
    ),
    Mutation(
        "A logout would close the pages that show only what is public.",
        SCRIPT,
        "!lost || groups.some((group) => lost.includes(group))",
        "true",
        [
            "browser/test_script_users.py::"
            "test_of_a_shared_connection_only_the_pages_of_the_lost_groups_are_closed"
        ],
    ),
    Mutation(
        "A page that comes back would take what is live before what it missed.",
        SCRIPT,
        "    this.served = [];\n",
        "",
        [
            "browser/test_script_users.py::"
            "test_a_restored_page_takes_nothing_before_the_leader_knows_where_it_stands"
        ],
    ),
    Mutation(
        "A page's own event is to move its position, and not to be shown.",
        SCRIPT,
        " && !except.includes(this.id)",
        "",
        [
            "browser/test_script_faults.py::test_resets_and_own_events_are_taken_as_the_server_means_them"
        ],
    ),
    Mutation(
        "An event from before a second reset would undo what the state of that reset has.",
        SCRIPT,
        "this.#queue = this.#queue.filter(([, , { group }]) => group !== data.group)",
        "this.#queue",
        [
            "browser/test_script_faults.py::test_resets_and_own_events_are_taken_as_the_server_means_them"
        ],
    ),
    Mutation(
        "A function that never ends would hold the events for ever.",
        SCRIPT,
        "Promise.race([Promise.all(own), pause(LONGEST_WAIT)])",
        "Promise.all(own)",
        [
            "browser/test_script_faults.py::test_resets_and_own_events_are_taken_as_the_server_means_them"
        ],
    ),
    Mutation(
        "The browser has another session of the same user already.",
        SCRIPT,
        "if (this.#ended || (reason && !again))",
        "if (reason)",
        [
            "browser/test_script_faults.py::"
            "test_after_the_end_of_a_session_the_present_one_is_tried_once"
        ],
    ),
    Mutation(
        "A browser that refuses a list of locks would leave the page without a stream.",
        SCRIPT,
        "navigator.locks.query().catch(() => ({}))",
        "navigator.locks.query()",
        ["browser/test_script_faults.py::test_tabs_share_although_the_browser_does_not_list_locks"],
    ),
    Mutation(
        "Behind a proxy that buffers a page would wait for ever.",
        SCRIPT,
        '    if (brief) url.searchParams.set("wait", "20");\n',
        "",
        [
            "browser/test_script_faults.py::"
            "test_behind_a_proxy_that_buffers_events_come_by_short_responses"
        ],
    ),
    Mutation(
        "A page that requires Trusted Types refuses the text of another page.",
        RELOAD,
        "policy?.createHTML(text) ?? text",
        "text",
        [
            "browser/test_script_faults.py::"
            "test_trusted_types_permit_our_policy_or_the_page_is_loaded_again"
        ],
    ),
    Mutation(
        "What several groups say of a row has no order between them.",
        COLLECTION,
        "    this.#several = !only && stream.groups.length > 1;\n",
        "    this.#several = false;\n",
        ["browser/test_collection.py::test_at_rest_a_collection_has_the_rows_of_the_server"],
    ),
    Mutation(
        "An event from before a load would undo what the load has read.",
        COLLECTION,
        "      this.#queue = [];\n",
        "      this.#queue ??= [];\n",
        ["browser/test_collection.py::test_at_rest_a_collection_has_the_rows_of_the_server"],
    ),
    Mutation(
        "With the token the server of another origin could speak for the visitor.",
        SCRIPT,
        "...(url.origin === location.origin && csrfHeader",
        "...(true && {",
        [
            "browser/test_script_requests.py::test_the_token_and_the_cookies_are_for_the_own_origin_only"
        ],
    ),
    Mutation(
        "A redirect that keeps the body takes the message and the token to another site.",
        SCRIPT,
        'body, redirect: "manual", signal',
        "body, signal",
        ["browser/test_script_requests.py::test_a_message_has_no_answer_but_the_apps"],
    ),
    Mutation(
        "A page of a portal is no answer, and no grant.",
        SCRIPT,
        "status === 200 && type.startsWith(JSON_TYPE)",
        "status === 200",
        [
            "browser/test_script_requests.py::test_a_message_has_no_answer_but_the_apps",
            "browser/test_script_requests.py::test_a_grant_is_renewed_by_the_app_and_by_nothing_else",
        ],
    ),
    Mutation(
        "A login page may have an element of the same name.",
        RELOAD,
        "  if (!response.status) return reloadPage();",
        "  //",
        [
            "browser/test_script_requests.py::test_a_login_page_is_no_part_of_the_page_that_is_loaded_again"
        ],
    ),
    Mutation(
        "A row that changes while the page is rendered would be in no later event.",
        "sse_app/templatetags/sse.py",
        """        attributes = _part(context, groups, **options)
        content = self.nodelist.render(context)
""",
        """        content = self.nodelist.render(context)
        attributes = _part(context, groups, **options)
""",
        ["publishing/test_live_tag.py::test_the_stream_begins_before_the_content_is_rendered"],
    ),
    Mutation(
        "A signature and a cursor give each answer another ETag.",
        "sse_app/templatetags/sse.py",
        'if live_part(context.get("request")) == id:',
        "if not id:",
        [
            "publishing/test_live_tag.py::"
            "test_the_answer_to_a_load_of_the_part_is_the_same_each_time"
        ],
    ),
    Mutation(
        "A part that does not forget the event that it has loaded loads itself for ever.",
        LIVE,
        "    this.#stale = false;\n    this.began = performance.now();",
        "    this.began = performance.now();",
        ["browser/test_live.py::test_without_an_event_nothing_is_loaded"],
    ),
    Mutation(
        "An outer part may have been rendered before a nested part loaded a newer state.",
        LIVE,
        "old.began > began || ",
        "",
        ["browser/test_live.py::test_nested_parts_are_loaded_alone_and_never_get_older"],
    ),
    Mutation(
        "A nested part would connect again at each load of the outer part.",
        LIVE,
        " && !signed",
        "",
        ["browser/test_live.py::test_nested_parts_are_loaded_alone_and_never_get_older"],
    ),
    Mutation(
        "An answer 304 has no part and is no failure.",
        LIVE,
        "    if (response.status === 304) return;\n",
        "",
        ["browser/test_live.py::test_an_answer_that_is_not_modified_changes_nothing"],
    ),
    Mutation(
        "A load that began before an event shows the state before it.",
        LIVE,
        "    this.#loading = false;\n",
        "    this.#loading = this.#stale = false;\n",
        ["browser/test_live.py::test_a_load_that_began_before_an_event_is_followed_by_another"],
    ),
    Mutation(
        "A visitor opens a <details>, which the server renders closed.",
        LIVE,
        "(before[name] !== now[name] && !signed)",
        "true",
        [
            "browser/test_live.py::test_typing_loses_nothing_while_the_list_is_loaded_again_twenty_times"
        ],
    ),
    Mutation(
        "A visitor has typed into a field that is not focused.",
        LIVE,
        "typed.includes(element)",
        "false",
        [
            "browser/test_live.py::test_typing_loses_nothing_while_the_list_is_loaded_again_twenty_times"
        ],
    ),
    Mutation(
        "All hidden tabs would load at each event.",
        LIVE,
        "document.hidden || ",
        "",
        ["browser/test_live.py::test_a_hidden_page_waits_until_it_is_shown"],
    ),
    Mutation(
        "A redirect leads to a login page.",
        LIVE,
        'redirect: "manual", signal',
        "signal",
        ["browser/test_live.py::test_an_answer_without_the_part_leaves_the_content"],
    ),
    Mutation(
        "htmx initialises only what it swaps itself.",
        LIVE,
        "  /** @type {any} */ (window).htmx?.process(target);\n",
        "",
        ["browser/test_live.py::test_htmx_knows_what_a_refresh_brings"],
    ),
    Mutation(
        "The elements that Alpine made are in no answer of the server.",
        LIVE,
        "node._x_refreshXForScope ||",
        "",
        ["browser/test_live.py::test_alpine_keeps_its_state_and_knows_what_a_refresh_brings"],
    ),
    Mutation(
        "A page with many streams would be requested by all of them at once.",
        LIVE,
        "this.#streams * PER_STREAM",
        "0",
        ["browser/test_live.py::test_the_pages_of_many_streams_load_one_by_one"],
    ),
    Mutation(
        "A tab that joins the others' connection may stand elsewhere than they.",
        SCRIPT,
        "if (own && (name === RESET ? id === own : covers(id, own))) return;",
        "",
        [
            "browser/test_script_tabs.py::"
            "test_a_tab_that_was_rendered_earlier_gets_what_came_since_and_the_others_no_repeat"
        ],
    ),
    Mutation(
        "The lock of a tab that hangs is free for nobody.",
        SCRIPT,
        "      else this.#compete(true);\n",
        "",
        [
            "browser/test_script_tabs.py::test_a_leader_that_hangs_is_replaced_and_loses_nothing_itself"
        ],
    ),
    Mutation(
        "A page in the back/forward cache keeps others waiting.",
        SCRIPT,
        'when("pageshow resume", () => pools.forEach((pool) => pool.start()));\n',
        "",
        [
            "browser/test_script_network.py::"
            "test_a_page_restored_from_the_back_forward_cache_goes_on_where_it_was"
        ],
    ),
)
