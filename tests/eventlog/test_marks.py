"""The random names of logs and events: marks and epochs."""

from __future__ import annotations

import os
import random
import re

import pytest

from sse_app.eventlog.contract import new_epoch, new_mark
from sse_app.protocol.cursors import START


def drawn() -> list[str]:
    return [name for _ in range(20) for name in (new_mark(), new_epoch())]


def test_new_marks_differ_and_fit_an_id() -> None:
    made = [new_mark() for _ in range(2000)]
    assert len(set(made)) > 1980
    assert all(re.fullmatch(r"[a-p][a-z2-7]{3}", mark) for mark in made)
    assert {mark[0] for mark in made} == set("abcdefghijklmnop")


def test_new_epochs_differ_and_fit_an_id() -> None:
    made = {new_epoch() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"[a-z2-7]{8}", epoch) for epoch in made)
    assert START.epoch not in made


def test_a_project_that_seeds_its_random_numbers_does_not_repeat_marks() -> None:
    """Two logs with the same marks would be taken for one."""
    state = random.getstate()
    try:
        random.seed(1)
        first = drawn()
        random.seed(1)
        assert drawn() != first
    finally:
        random.setstate(state)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_draw_other_marks_than_each_other_and_their_parent() -> None:
    found = [read_from_child() for _ in range(2)]
    assert len({*found, "".join(drawn())}) == 3


def read_from_child() -> str:
    """Return what a forked child has drawn."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, "".join(drawn()).encode())
        os._exit(0)
    os.close(writes)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with os.fdopen(reads) as answer:
        return answer.read()
