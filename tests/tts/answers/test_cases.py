"""Texts as models write them, and the answer that is in them."""

from __future__ import annotations

import pytest

from tts.answers import Choice, Code, Exact, Json, Maths, kind_from


@pytest.mark.parametrize(
    ("kind", "text", "finished", "answer"),
    [
        ("maths", "The answer is 12 because 3 * 4 = 12.", True, "12"),
        ("maths", "#### 1. First step\nwe add\n#### 42", True, "42"),
        ("maths", "The answer is 3.", False, None),  # may become 3.5
        ("maths", "The answer is 3 apples", False, "3"),
        ("maths", "the answer is (3, 5)", True, "(3, 5)"),
        ("maths", "\\boxed{\\{1, 2\\}}", True, "\\{1, 2\\}"),
        ("maths", "The answer is \N{MINUS SIGN}7", True, "-7"),
        ("maths", "It is 1.5e3", True, "1.5e3"),
        ("choice", "The answer is B", False, None),  # may be about to say Because
        ("choice", "The answer is B.", False, "B"),
        ("choice", "so **answer: option C**", True, "C"),
        ("choice", "\\boxed{\\text{B) seven}}", True, "B"),
        ("choice", "(A) is wrong and (C) too.\nD", True, "D"),
        ("exact", "The final answer: **Paris**.", True, "paris"),
        ("json", 'Think of [1, 2].\n```json\n{"a": 1}\n```\nor [3]', True, '{"a":1}'),
        ("json", 'the result is {"a": [1, 2', True, None),  # a part is not the answer
        ("json", "[" * 100_000, True, None),
        ("code", "```python\nprint('```')\n```", True, "print('```')"),
    ],
)
def test_an_answer_is_found_as_it_was_meant(kind: str, text: str, finished: bool, answer: str | None) -> None:
    assert kind_from(kind).extract(text, finished) == answer


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1{,}000", "1000", True),
        ("7 \\text{ cm}", "7", True),
        ("1.5e3", "1500", True),
        ("(3, 5)", "(5, 3)", False),
        ("\N{MINUS SIGN}7", "-7", True),
        ("2/4", "\\frac{1}{2}", True),
    ],
)
def test_maths_compares_values_and_not_spellings(one: str, other: str, same: bool) -> None:
    assert Maths().same(one, other) is same


def test_programs_with_nothing_to_run_them_on_agree_only_when_they_are_the_same() -> None:
    keys = Code().behaviours(["print(1)", "print(1)  # one", "print(2)"], lambda program, given: None)
    assert keys[0] == keys[1] != keys[2]


def test_a_canonical_value_can_always_be_written_to_a_file() -> None:
    answer = Json().extract('{"a": "\\ud800"}', True)
    assert answer is not None
    assert answer.encode()


def test_letters_and_quotes_of_a_kind_are_its_own() -> None:
    assert Choice(letters="AB").extract("The answer is (C).", True) is None
    assert Exact(ignore_case=False).extract("Answer: “Paris”", True) == "Paris"
