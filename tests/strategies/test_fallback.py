from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import Rebase
from strategies.tree import StepSearch, vouched
from tests.fakes import PROBLEM, solved
from tests.strategies.scripted import (
    PLENTY,
    ByText,
    Heard,
    asked,
    batches,
    ended,
    every_search,
    opinion,
    paths_of,
    place,
    searched,
)
from tts.answers import Text
from tts.backends.base import Request
from tts.errors import UsageError
from tts.selection import Ballot, Group
from tts.types import Path, Problem, Score

RIGHT, WRONG = "so \\boxed{42}", "no \\boxed{"


def some_agree(request: Request) -> str:
    """Of what begins afresh every third says 42, and the others what nobody else says; whatever goes on says 42."""
    if request.path.steps or place(request) % 3 == 0:
        return RIGHT
    return f"{WRONG}{request.seed}}}"


def steps_or_whole(request: Request) -> str:
    """Whole solutions as above; where steps are asked for, one that does not end."""
    return f"{request.seed}\n\n" if request.until and not request.path.steps else some_agree(request)


def group(*scores: float | None) -> Group:
    plain = Path.of(PROBLEM)
    return [Ballot(plain.scored(Score(value=s, by="test")) if s is not None else plain, "x") for s in scores]


def trusting(search: StepSearch) -> StepSearch:
    return search.model_copy(update={"fallback": "vote", "n": 12})


@every_search
def test_scores_that_side_with_nobody_leave_all_to_a_plain_vote(search: StepSearch) -> None:
    against = ByText(table={RIGHT: 0.1}, low=0.5)
    result, records = searched(trusting(search), steps_or_whole, scorer=against)
    assert result.answer is not None
    assert [len(batch) for batch in batches(result)] == [6, 6]
    assert all(path.finished and len(path.steps) == 1 for path in paths_of(records).values())
    counts = Counter(PROBLEM.kind.extract(path.text, True) for path in paths_of(records).values())
    assert counts["42"] == max(counts.values()) == result.answer.support
    assert (result.answer.text, result.answer.chosen) == ("42", "majority, for want of trust: 4 of 12 votes")


@every_search
def test_scores_that_side_with_agreement_search_with_what_is_left(search: StepSearch) -> None:
    result, records = searched(trusting(search), steps_or_whole, scorer=ByText(table={RIGHT: 1.0}, low=0.1, high=0.4))
    assert result.answer is not None
    first, *others = batches(result)
    pilots = {call.key for call in first}
    assert len(pilots) == 6
    assert others
    at_once = getattr(search, "width", 0)
    assert 1 <= len([key for key in ended(records) if key not in pilots]) <= max(6, at_once)
    assert all(len(path.steps) > 1 for key, path in paths_of(records).items() if key not in pilots and path.finished)
    assert result.answer.text == "42"
    assert result.answer.votes[0].count > 2, "what was written first votes too"


@every_search
def test_the_first_solutions_answer_before_anything_else_is_written(search: StepSearch) -> None:
    heard = Heard(inner=trusting(search))
    searched(heard, steps_or_whole, scorer=ByText(table={RIGHT: 0.1}, low=0.5))
    first, last = heard.answers
    assert (sum(vote.count for vote in first.votes), sum(vote.count for vote in last.votes)) == (6, 12)


@pytest.mark.parametrize("answer", [RIGHT, f"{WRONG}SEED}}"], ids=["all agree", "nobody agrees"])
def test_where_first_solutions_cannot_tell_nothing_is_read(answer: str) -> None:
    result, _ = searched(
        Rebase(n=8, fallback="vote"),
        lambda request: answer.replace("SEED", str(request.seed)),
        **asked(lambda sheet: opinion(0.5)),
    )
    assert {call.role for call in result.trace.calls} == {"policy"}
    assert [len(batch) for batch in batches(result)] == [4, 4]


def test_a_search_of_one_solution_has_nobody_to_ask() -> None:
    one, plain = (searched(Rebase(n=1, fallback=each), seed=2)[0] for each in ("vote", None))
    assert one.answer == plain.answer


def test_a_vote_needs_answers_that_can_be_counted() -> None:
    essay = Problem.ask("Write a poem.", Text())
    with pytest.raises(UsageError, match="vote"):
        solved(Rebase(fallback="vote"), PLENTY, problem=essay, scorer=ByText())


@pytest.mark.parametrize(
    ("groups", "trusted"),
    [
        ([group(0.9, 0.8), group(0.1), group(0.2)], True),
        ([group(0.1, 0.2), group(0.9), group(0.8)], False),
        ([group(0.9, 0.8, 0.7)], False),
        ([group(0.9), group(0.8)], False),
        ([], False),
        ([group(0.5, 0.5), group(0.5)], False),
        ([group(None, None), group(None)], False),
        ([group(0.9, None), group(0.1)], True),
    ],
)
def test_a_verifier_is_trusted_where_it_prefers_those_that_agree(groups: list[Group], trusted: bool) -> None:
    assert vouched(groups) is trusted


@given(st.lists(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4), max_size=6))
def test_a_verifier_and_its_opposite_are_never_both_trusted(scores: list[list[float]]) -> None:
    turned = [[1.0 - score for score in each] for each in scores]
    assert not (vouched([group(*each) for each in scores]) and vouched([group(*each) for each in turned]))
