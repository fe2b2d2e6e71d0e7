from __future__ import annotations

import random
import re
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.lab import chain
from evals.lab.chain import Chain, Values, compute, generate, judge, read
from evals.lab.splits import drawn, split_of
from evals.suites.chain import BINS, rows

OPERATIONS = st.integers(chain.FEWEST_OPERATIONS, chain.MOST_OPERATIONS)
EXAMPLE = Chain(
    {
        "d": ("a", "-", "b"),
        "c": ("b", "*", "2"),
        "z": ("9", "+", "c"),
        "a": ("4", "+", "9"),
        "b": ("a", "+", "5"),
        "e": ("3", "*", "7"),
    },
    ("c", "d", "e"),
)
SOLUTION = "cba:\na=4+9=4+9=13\nb=a+5=13+5=18\nc=b*2=18*2=13\nd:\nd=a-b=13-18=18\ne:\ne=3*7=3*7=21\n=13,18,21"


def problem(seed: int, operations: int) -> Chain:
    return generate(random.Random(seed), operations)


def test_the_example_is_solved_as_the_documentation_says() -> None:
    assert "".join(EXAMPLE.steps) == SOLUTION
    assert EXAMPLE.prompt.splitlines()[-1] == "c,d,e?"
    assert "\n    ".join(EXAMPLE.prompt.splitlines()) in (chain.__doc__ or "")
    assert "\n    ".join(SOLUTION.splitlines()) in (chain.__doc__ or "")


@given(st.integers(), OPERATIONS)
def test_a_generated_problem_needs_exactly_the_operations_asked_for_and_can_be_read_back(seed: int, size: int) -> None:
    made = problem(seed, size)
    assert made.operations == size == sum("=" in step[1:] for step in made.steps)
    assert read(made.prompt) == made
    assert len(set(made.queries)) == chain.QUERIES
    assert all(judge(made, "".join(made.steps)))
    assert Values().extract("".join(made.steps), True) == made.answer


@given(st.integers(), OPERATIONS, st.data())
def test_the_oracle_finds_any_number_that_was_changed(seed: int, size: int, data: st.DataObject) -> None:
    made = problem(seed, size)
    steps = list(made.steps)
    line = data.draw(st.sampled_from([i for i, step in enumerate(steps) if "=" in step]))
    number = data.draw(st.sampled_from(list(re.finditer(r"\d+", steps[line]))))
    other = data.draw(st.integers(0, chain.MODULUS - 1).filter(lambda n: n != int(number[0])))
    steps[line] = f"{steps[line][: number.start()]}{other}{steps[line][number.end() :]}"
    assert judge(made, "".join(steps)) == [i != line for i in range(len(steps))]


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("cba:", True),
        ("abc:", False),  # begins with what is not asked for
        ("ca:", False),  # leaves out what c needs
        ("c?:", False),
        ("", False),
        ("=13,18", False),
        ("z=9+c=9+13=22", False),  # true, and nobody needs it
    ],
)
def test_the_oracle_judges_lines_by_themselves(line: str, verdict: bool) -> None:
    assert judge(EXAMPLE, line) == [verdict]


@pytest.mark.parametrize(
    ("left", "sign", "right", "result"), [("20", "+", "8", "5"), ("2", "-", "7", "18"), ("22", "*", "22", "1")]
)
def test_arithmetic_is_modulo_a_prime(left: str, sign: str, right: str, result: str) -> None:
    assert compute(left, sign, right) == result


def test_about_three_in_ten_definitions_lead_nowhere() -> None:
    made = [problem(seed, 10) for seed in range(50)]
    assert mean(1 - each.operations / len(each.definitions) for each in made) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(
    ("text", "finished", "answer"),
    [
        (SOLUTION, True, "13,18,21"),
        (SOLUTION, False, None),
        ("c=7", True, None),
        ("=1,2\nmore", True, None),
        ("=1,2\n", True, "1,2"),
    ],
)
def test_an_answer_is_the_last_line_of_a_finished_text(text: str, finished: bool, answer: str | None) -> None:
    assert Values().extract(text, finished) == answer


def test_a_prompt_that_states_no_problem_is_refused() -> None:
    with pytest.raises(ValueError, match="no chain problem"):
        read("a=b+c\nwhat is a?")


def test_a_problem_is_in_one_split_whatever_its_names_order_and_distractors() -> None:
    renamed = Chain(
        {"m": ("q", "+", "5"), "q": ("4", "+", "9"), "k": ("3", "*", "7"), "w": ("m", "*", "2"), "p": ("q", "-", "m")},
        ("w", "p", "k"),
    )
    assert renamed.key == EXAMPLE.key
    splits = {
        split: {drawn(split, random.Random(i), lambda r: generate(r, 3)).key for i in range(30)}
        for split in ("train", "dev", "test")
    }
    assert all(split_of(key) == split for split, keys in splits.items() for key in keys)


def test_the_suites_problems_are_the_same_on_every_machine_and_the_bins_take_turns() -> None:
    stream = rows("dev")
    found = [next(stream) for _ in range(30)]
    assert [row.group for row in found] == [*BINS] * 10
    assert len({row.id for row in found}) == 30
    for row in found:
        fewest, most = BINS[row.group]
        assert fewest <= read(row.problem).operations <= most
        assert read(row.problem).answer == row.answer
        assert split_of(read(row.problem).key) == "dev"
    assert found[0].id == "2204905a64bc338c"
