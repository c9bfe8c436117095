"""The page's end of a stream, `sse.js`."""

from __future__ import annotations

from . import Mutation

SCRIPT = "sse_app/static/sse_app/sse.js"

MUTATIONS = (
    Mutation(
        "Of the tabs that share a stream only the one that spoke is to hear the reply.",
        SCRIPT,
        "    const mine = !ids || ids.includes(this.id);\n",
        "    const mine = true;\n",
        ["test_script_tabs.py::test_of_the_tabs_that_share_a_stream_only_the_one_that_spoke_hears"],
    ),
    Mutation(
        "Browsers open six HTTP/1.1 connections to a host over all tabs.",
        SCRIPT,
        'this.#path = shares && origin === location.origin ? pathname : "";',
        'this.#path = "";',
        [
            "test_script_tabs.py::"
            "test_ten_tabs_are_one_connection_and_all_live_on_when_the_leader_closes"
        ],
    ),
    Mutation(
        "A connection that dies without a word ends in no error.",
        SCRIPT,
        "    this.#then(() => this.#abort.abort(), this.#pool.silence);\n",
        "",
        ["test_script_network.py::test_a_server_that_falls_silent_is_noticed"],
    ),
    Mutation(
        "An EventSource gives up for good after an answer that is no stream.",
        SCRIPT,
        "if (status !== 200 && !passes(status))",
        "if (status !== 200)",
        ["test_script_network.py::test_answers_that_are_no_stream_are_tried_again"],
    ),
    Mutation(
        "After a logout a page that comes back would be refused for ever.",
        SCRIPT,
        "if (/^(auth|expired|end)$/.test(over)) this.#over = over;",
        "if (/^(expired|end)$/.test(over)) this.#over = over;",
        ["test_script_network.py::test_a_logout_closes_the_streams_of_all_tabs"],
    ),
    Mutation(
        "A tab that joins the others' connection may stand elsewhere than they.",
        SCRIPT,
        "if (own && (name === RESET ? id === own : covers(id, own))) return;",
        "",
        [
            "test_script_tabs.py::"
            "test_a_tab_that_was_rendered_earlier_gets_what_came_since_and_the_others_no_repeat"
        ],
    ),
    Mutation(
        "The lock of a tab that hangs is free for nobody.",
        SCRIPT,
        "      else this.#compete(true);\n",
        "",
        ["test_script_tabs.py::test_a_leader_that_hangs_is_replaced_and_loses_nothing_itself"],
    ),
    Mutation(
        "A page in the back/forward cache keeps others waiting.",
        SCRIPT,
        'for (const name of ["pageshow", "resume"]) addEventListener(name, () => '
        "pools.forEach((pool) => pool.start()), true);\n",
        "",
        [
            "test_script_network.py::"
            "test_a_page_restored_from_the_back_forward_cache_goes_on_where_it_was"
        ],
    ),
)
