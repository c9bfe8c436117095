"""The lists of `make mutations` fit the code: what they take out is there, and so are the tests."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from ..mutations import ROOT, Mutation, mutations

MUTATIONS = mutations()


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.where)
def test_what_a_mutation_takes_out_is_there_once(mutation: Mutation) -> None:
    text = (ROOT / mutation.file).read_text()
    mutated = mutation.mutate(text)
    assert mutated != text
    if mutation.file.endswith(".py"):
        ast.parse(mutated)


def test_the_tests_that_must_fail_are_there() -> None:
    named = {test for mutation in MUTATIONS for test in mutation.tests}
    missing = [test for test in named if test.split("::")[-1] not in names_in(test.split("::")[0])]
    assert sorted(missing) == []


def test_no_mutation_is_without_a_test_or_a_trap_of_its_own() -> None:
    assert all(mutation.tests for mutation in MUTATIONS)
    traps = [(mutation.file, mutation.trap) for mutation in MUTATIONS]
    assert len(set(traps)) == len(traps)
