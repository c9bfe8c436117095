"""The page's end of a stream, `sse.js`."""

from __future__ import annotations

from ..mutations import Mutation

SCRIPT = "sse_app/static/sse_app/sse.js"

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
        'this.#path = shares && origin === location.origin ? BETWEEN_TABS + pathname : "";',
        'this.#path = "";',
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
        "A connection that dies without a word ends in no error.",
        SCRIPT,
        "    this.#timer = setTimeout(() => this.#abort.abort(), ms);\n",
        "",
        ["browser/test_script_network.py::test_a_server_that_falls_silent_is_noticed"],
    ),
    Mutation(
        "An EventSource gives up for good after an answer that is no stream.",
        SCRIPT,
        "return status !== 200 && !passes(status);",
        "return status !== 200;",
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
        'if (t === "lead" && user !== undefined && this.#leads) this.#open();',
        "",
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
        SCRIPT,
        "  if (response.redirected) return reloadPage();",
        "  //",
        [
            "browser/test_script_requests.py::test_a_login_page_is_no_part_of_the_page_that_is_loaded_again"
        ],
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
