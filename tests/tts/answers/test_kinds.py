"""The kinds but maths, and what all of them have in common."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tts.answers import AnswerKind, Choice, Code, Exact, Json, Text, kind_from, kinds, register
from tts.answers.text import consensus
from tts.errors import UsageError
from tts.types import Problem

EVERY = [kind() for kind in kinds().values()]


@pytest.mark.parametrize("kind", [*EVERY, Choice(letters="ABCDE"), Code(tests=("t",)), Exact(ignore_case=False)])
def test_a_kind_travels_with_its_problem(kind: AnswerKind) -> None:
    problem = Problem.ask("?", kind)
    assert Problem.model_validate_json(problem.model_dump_json()) == problem


def test_a_kind_is_known_by_its_name() -> None:
    assert kind_from("exact") == Exact()
    assert kind_from({"kind": "choice", "letters": "AB"}) == Choice(letters="AB")


@pytest.mark.parametrize(
    ("value", "words"),
    [("math", "did you mean 'maths'"), ({"letters": "AB"}, "'kind'"), (7, "not 7"), ({"kind": "zzz"}, "known: ")],
)
def test_an_unknown_kind_is_one_clear_error(value: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        kind_from(value)


def test_two_kinds_cannot_share_a_name() -> None:
    class Impostor(Exact):
        pass

    with pytest.raises(AssertionError, match="two answer kinds"):
        register(Impostor)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.name)
@given(text=st.text(alphabet='ab(ABCD)\n`{}[]":,1answer: pythn', max_size=60), finished=st.booleans())
def test_no_text_makes_extraction_fail_and_an_answer_equals_itself(kind: AnswerKind, text: str, finished: bool) -> None:
    answer = kind.extract(text, finished)
    assert answer == kind.extract(text, finished)
    assert answer is None or (answer != "" and kind.quick(answer, answer) in (True, None))


@pytest.mark.parametrize(
    ("text", "finished", "letter"),
    [
        ("The answer is (B).", True, "B"),
        ("Answer: C", True, "C"),
        ("The answer is **D**", True, "D"),
        ("I think \\boxed{\\text{A}}", True, "A"),
        ("\\boxed{B}", False, "B"),
        ("The answer is (A). Wait, the answer is (C).", True, "C"),
        ("either (A) or (D)", True, "D"),
        ("either (A) or (D)", False, None),
        ("Because.\nB", True, "B"),
        ("A dog is an animal", True, None),
        ("The answer is (E)", True, None),
        ("The answer is Bad luck", True, None),
    ],
)
def test_a_choice_is_read_from_what_is_stated(text: str, finished: bool, letter: str | None) -> None:
    assert Choice().extract(text, finished) == letter


@pytest.mark.parametrize("letters", ["", "A", "ab", "A1"])
def test_choices_are_capital_letters(letters: str) -> None:
    with pytest.raises(ValidationError):
        Choice(letters=letters)


@pytest.mark.parametrize(
    ("text", "finished", "answer"),
    [
        ("thinking\nAnswer: Paris.", True, "paris"),
        ("Answer: Paris\nAnswer: **Rome**", True, "rome"),
        ("Answer: Par", False, None),
        ("Answer: Paris\n", False, "paris"),
        ("so it must be\n  New   York ", True, "new york"),
        ("so it must be\nNew York\n", False, None),
        ("  \n", True, None),
    ],
)
def test_an_exact_answer_is_its_line(text: str, finished: bool, answer: str | None) -> None:
    assert Exact().extract(text, finished) == answer


def test_case_counts_where_it_is_said_to() -> None:
    assert Exact(ignore_case=False).extract("Answer: pH", True) == "pH"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('here: {"b": 1.0, "a": [1, 2]}', '{"a":[1,2],"b":1}'),
        ('```json\n{"a": {"c": null}}\n```', '{"a":{"c":null}}'),
        ('{"a": 1} no, {"a": 2}', '{"a":2}'),
        ('{"name": "f", "arguments": "{\\"y\\": 2, \\"x\\": 1}"}', '{"arguments":{"x":1,"y":2},"name":"f"}'),
        ('{"name": "f", "arguments": "not json"}', '{"arguments":"not json","name":"f"}'),
        ('{"a": 1', None),
        ("17", None),
        ("[" * 5_000, None),
    ],
)
def test_json_is_read_in_canonical_form(text: str, answer: str | None) -> None:
    assert Json().extract(text, True) == answer


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        max_leaves=8,
    )
)
def test_the_spelling_of_a_json_value_does_not_matter(value: object) -> None:
    wrapped = {"value": value}
    compact = json.dumps(wrapped)
    pretty = json.dumps(dict(reversed(wrapped.items())), indent=3)
    assert Json().extract(f"I say {compact}", True) == Json().extract(pretty, True) is not None


@pytest.mark.parametrize(
    ("text", "finished", "program"),
    [
        ("```python\nx = 1\n```", True, "x = 1"),
        ("```python\nx = 1\n```\nor\n```\ny = 2\n```", True, "y = 2"),
        ("```python\nx = 1\n```\nor\n```\ny = ", False, "x = 1"),
        ("```python\nx = 1", True, "x = 1"),
        ("```python\nx = 1", False, None),
        ("no code", True, None),
    ],
)
def test_a_program_is_the_last_block(text: str, finished: bool, program: str | None) -> None:
    assert Code().extract(text, finished) == program


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("x = 1", "x=1  # one", True), ("x = 1", "x = 2", False), ("x = (", "x = (", True), ("x = (", "x = [", False)],
)
def test_programs_are_the_same_when_only_layout_differs(one: str, other: str, same: bool) -> None:
    assert Code().quick(one, other) is same
    assert Code().same(one, other) is same


def test_free_text_is_its_own_answer_once_it_is_finished() -> None:
    assert Text().extract(" a poem \n", True) == "a poem"
    assert Text().extract(" a poem \n", False) is None


def test_consensus_prefers_the_text_that_agrees_with_the_others() -> None:
    values = consensus(["the cat sat on the mat", "the cat sat on a mat", "stocks fell sharply"])
    assert min(values[:2]) > values[2]
    assert consensus(["alone"]) == [0.0]
    assert consensus(["", ""]) == [0.0, 0.0]
