from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest

from strategies import DVTS, Rebase
from strategies.tree import StepSearch
from tests.fakes import PROBLEM
from tests.strategies.scripted import (
    SEEDS,
    ByText,
    Heard,
    ended,
    every_search,
    lettered,
    paths_of,
    place,
    searched,
    wandering,
)
from tts.backends.base import Request
from tts.backends.fake import Reply
from tts.trace import FINISHER
from tts.types import Budget, Path, Sampling


@every_search
@SEEDS
def test_answers_only_gain_votes_and_the_last_one_is_that_of_all_candidates(search: StepSearch, seed: int) -> None:
    heard = Heard(inner=search)
    result, records = searched(heard, seed=seed)
    counts = [sum(vote.count for vote in answer.votes) for answer in heard.answers]
    assert counts == sorted(set(counts)), "each answer is of more candidates than the one before"
    assert result.answer == heard.answers[-1]
    candidates = [paths_of(records)[key] for key in ended(records)]
    if not isinstance(search, DVTS):  # whose candidates are only what its trees end with
        assert counts[-1] == len(candidates)
        assert result.answer.text == heaviest(candidates)


def heaviest(candidates: Sequence[Path]) -> str | None:
    weights = defaultdict[str | None, float](float)
    for path in candidates:
        weights[PROBLEM.kind.extract(path.text, True)] += ByText().value(path) or 0.0
    return max(weights, key=lambda answer: weights[answer])


@every_search
def test_a_search_says_something_before_it_ends(search: StepSearch) -> None:
    heard = Heard(inner=search)
    searched(heard)
    assert len(heard.answers) > 1


@every_search
@pytest.mark.parametrize("unit", ["seconds", "tokens"])
@SEEDS
def test_what_had_ended_when_the_budget_did_is_not_lost(search: StepSearch, unit: str, seed: int) -> None:
    def slow(request: Request) -> Reply:
        return Reply(wandering(request), latency=0.1 + request.seed % 100 / 100)

    budget = Budget(seconds=2.5) if unit == "seconds" else Budget(tokens=90)
    sampling = Sampling(max_tokens=8)
    result, records = searched(search, slow, budget=budget, seed=seed, sampling=sampling)
    if ended(records):
        assert result.answer is not None
        assert result.answer.extracted
        assert result.answer.chosen != "forced at the end"


def test_a_tree_of_dvts_that_was_cut_short_hands_in_what_had_ended_in_it() -> None:
    """A path ends in the first round, but a better one goes on until the deadline."""

    def write(request: Request) -> Reply:
        if not request.path.steps and place(request) == 0:
            return Reply("early \\boxed{1}", latency=0.1)
        return Reply(f"{place(request)}\n\n", latency=0.4)

    early = {"early \\boxed{1}": 0.0}
    result, _ = searched(DVTS(n=4), write, budget=Budget(seconds=1.5), scorer=ByText(table=early))
    assert result.answer is not None
    assert [(vote.answer, vote.count) for vote in result.answer.votes] == [("1", 1)]


def test_an_answer_is_forced_from_the_path_that_came_farthest_and_not_from_the_beginning_that_scored_best() -> None:
    falling = ByText(table={"a": 0.9, "b": 0.8, "aa": 0.5, "ab": 0.4, "ba": 0.3, "bb": 0.2}, low=0.1, high=0.1)
    result, _ = searched(Rebase(n=2), lettered("ab", 9), budget=Budget(tokens=44), scorer=falling)
    policy = {call.key: call for call in result.trace.calls if call.role == "policy"}
    (forced,) = [call for call in policy.values() if call.key.startswith(FINISHER)]
    depths: dict[str | None, int] = {None: 0}
    for call in policy.values():
        depths[call.key] = depths[call.parent] + 1
    farthest = max(depth for key, depth in depths.items() if key != forced.key)
    assert depths[forced.parent] == farthest > 1
