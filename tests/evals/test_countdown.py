from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.lab.countdown import FEWEST, MOST, TARGETS, Equations, canonical, generate, read, solves
from evals.suites import SUITES

PROMPT = "3 8 14 5:81"
SOLUTION = "14-5=9:3 8 9\n8+9=17:3 17\n3*17=51:51"


@given(st.integers(), st.integers(FEWEST, MOST))
def test_a_generated_solution_uses_every_number_once_and_hits_the_target(seed: int, count: int) -> None:
    made = generate(random.Random(seed), count)
    assert read(made.prompt) == (made.numbers, made.target)
    assert made.target in TARGETS
    answer = Equations().extract("".join(made.steps), True)
    assert answer == canonical(list(made.solution))
    assert solves(made.prompt, answer)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("14-5;3*9;8+27", False),  # 35 is not 81
        ("14-5;8-5", False),  # too few equations, and a number used twice
        ("3*27;8+14;22+5", True),
        ("22+5;8+14;3*27", True),  # whatever the order
        ("3*27;14-5;8+14", False),
        ("81", False),
        ("", False),
        ("3-8;14*5;70-5", False),  # below one
    ],
)
def test_a_checker_accepts_what_reaches_the_target_and_nothing_else(answer: str, verdict: bool) -> None:
    assert solves(PROMPT, answer) is verdict


def test_solutions_that_differ_only_in_order_are_one_answer_and_others_are_not() -> None:
    kind = Equations()
    one, other = (
        kind.extract("8+14=22:3 5 22\n22+5=27:3 27\n27*3=81:81", True),
        kind.extract("14+8=22:\n5+22=27:\n3*27=81:", True),
    )
    assert one == other == "3*27;5+22;8+14"
    assert kind.extract(SOLUTION, True) != one
    assert kind.extract(SOLUTION, False) is None
    assert kind.extract("no equation", True) is None


def test_the_suite_asks_nothing_twice_and_takes_any_right_answer() -> None:
    suite = SUITES["countdown"]
    items = suite.items("test", 60)
    assert len({item.problem.id for item in items}) == 60
    assert {item.group for item in items} == {"3 numbers", "4 numbers", "5 numbers"}
    assert all(suite.right(item, item.reference) for item in items)
    item = items[0].model_copy(update={"reference": "nonsense"})
    assert suite.right(item, items[0].reference)
