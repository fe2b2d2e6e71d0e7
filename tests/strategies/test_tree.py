from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import Beam
from strategies.tree import ranked, repeated
from tests.fakes import PROBLEM
from tests.strategies.scripted import ByText, ended, place, searched
from tts.answers import Text
from tts.backends.base import Request
from tts.selection import values
from tts.types import Answer, Path, Problem, Sampling, Score

Select = Literal["weighted", "best", "majority"]


def path(score: float | None, text: str = "") -> Path:
    plain = Path.of(PROBLEM).append(text)
    return plain if score is None else plain.scored(Score(value=score, by="test"))


def test_a_missing_score_counts_as_the_average_of_those_that_are_known() -> None:
    assert values([path(0.2), path(None), path(0.6)]) == pytest.approx([0.2, 0.4, 0.6])
    assert values([path(0.0), path(None)]) == [0.0, 0.0]


def test_without_any_score_all_paths_are_worth_the_same_and_something() -> None:
    assert values([path(None), path(None)]) == [1.0, 1.0]
    assert values([]) == []


@given(st.lists(st.none() | st.floats(0.0, 1e6), max_size=12))
def test_ranked_are_all_paths_by_falling_score_and_equals_stay_in_order(scores: list[float | None]) -> None:
    paths = [path(score, str(i)) for i, score in enumerate(scores)]
    worth = dict(zip((each.text for each in paths), values(paths), strict=True))
    keys = [(-worth[each.text], int(each.text)) for each in ranked(paths)]
    assert keys == sorted(keys)
    assert len(keys) == len(paths)


def test_each_path_is_repeated_as_often_as_its_count_says() -> None:
    one, other, none = path(0.1, "1"), path(0.2, "2"), path(0.3, "3")
    assert repeated([one, none, other], [2, 0, 1]) == [one, one, other]
    assert repeated([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        repeated([one, other], [1])


SAID = {"a \\boxed{1}": 0.9, "b \\boxed{2}": 0.5, "c \\boxed{2}": 0.6} | {f"{x} \\boxed{{3}}": 0.1 for x in "def"}


def answered(select: Select, table: dict[str, float], problem: Problem = PROBLEM) -> Answer | None:
    """What is chosen among six candidates."""

    def write(request: Request) -> str:
        return list(SAID)[place(request)]

    scorer = ByText(table=table, low=None)
    return searched(Beam(n=6, select=select), write, scorer=scorer, problem=problem)[0].answer


@pytest.mark.parametrize(
    ("select", "text", "support"), [("best", "1", 0.9), ("weighted", "2", 1.1), ("majority", "3", 3.0)]
)
def test_the_answer_is_that_of_the_best_path_or_of_the_heaviest_or_largest_group(
    select: Select, text: str, support: float
) -> None:
    answer = answered(select, SAID)
    assert answer is not None
    assert (answer.text, answer.extracted) == (text, True)
    assert answer.support == pytest.approx(support)


@pytest.mark.parametrize("select", ["weighted", "majority"])
@pytest.mark.parametrize("table", [{}, dict.fromkeys(SAID, 0.0)], ids=["no scores", "all zero"])
def test_where_scores_say_nothing_votes_are_plain(select: Select, table: dict[str, float]) -> None:
    answer = answered(select, table)
    assert answer is not None
    assert (answer.text, answer.support) == ("3", 3.0)


@pytest.mark.parametrize("select", ["weighted", "best", "majority"])
def test_where_answers_can_not_be_counted_the_best_score_decides(select: Select) -> None:
    answer = answered(select, SAID, Problem.ask("Tell me a story.", Text()))
    assert answer is not None
    assert answer.text == "a \\boxed{1}"
    assert answer.votes == ()


@pytest.mark.parametrize("select", ["weighted", "best", "majority"])
def test_where_nobody_states_an_answer_the_best_finished_path_is_what_there_is(select: Select) -> None:
    def write(request: Request) -> str:
        return f"no idea {'abc'[place(request)]}" if not request.path.steps else ""

    scorer = ByText(table={"no idea a": 0.1, "no idea b": 0.8, "no idea c": 0.3})
    answer = searched(Beam(n=3, select=select), write, scorer=scorer)[0].answer
    assert answer is not None
    assert (answer.text, answer.extracted) == ("no idea b", False)


@pytest.mark.parametrize("select", ["weighted", "best", "majority"])
def test_a_path_that_was_cut_counts_only_where_it_has_stated_an_answer(select: Select) -> None:
    def write(request: Request) -> str:
        return ["so 17 and on and on", "is \\boxed{42} and on", "so 18 and on and on"][place(request)]

    result, records = searched(Beam(n=3, select=select), write, sampling=Sampling(max_tokens=3))
    assert not ended(records)
    assert result.answer is not None
    assert (result.answer.text, result.answer.extracted) == ("42", True)
