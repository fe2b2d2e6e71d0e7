"""Whatever a model or a verifier does, a search over steps ends in a defined way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from strategies import ABMCTS, DVTS, ETS, Beam, BestFirst, Particles, Rebase
from strategies.tree import StepSearch
from tests.strategies.scripted import (
    SEARCHES,
    ByText,
    NowAndThen,
    asked,
    batches,
    depth_of,
    ended,
    every_search,
    opinion,
    paths_of,
    place,
    searched,
    wandering,
)
from tts.backends.base import Request
from tts.backends.fake import Opinion, Reply
from tts.errors import NoSamples
from tts.types import Result, Sampling, Sheet

ROUNDS = [search for search in SEARCHES if not isinstance(search, ABMCTS)]
"""Searches that ask for many steps at once, and judge all of them."""


def chosen_of(result: Result) -> str:
    """The answer, which the search itself has found."""
    assert result.answer is not None
    assert result.answer.chosen != "forced at the end"
    assert result.answer.extracted
    return result.answer.text


@every_search
def test_without_any_score_a_search_goes_on_unguided_and_every_vote_counts_the_same(search: StepSearch) -> None:
    result, records = searched(search, scorer=ByText(low=None))
    assert chosen_of(result)
    assert result.answer is not None
    assert all(vote.weight == vote.count for vote in result.answer.votes)
    assert ended(records)


@every_search
@pytest.mark.parametrize("seed", range(3))
def test_a_search_goes_on_where_some_scores_are_missing(search: StepSearch, seed: int) -> None:
    result, records = searched(search, scorer=NowAndThen(), seed=seed)
    assert chosen_of(result)
    assert ended(records)
    assert any(None in chosen.scores for chosen in result.trace.selections) or isinstance(search, ABMCTS)


def test_a_path_whose_scoring_failed_is_continued_like_an_average_one() -> None:
    """One of four has no score, the others have 0.2, 0.5 and 0.8: it takes its place in the middle."""

    def write(request: Request) -> str:
        return f"{'abcd'[place(request) % 4]}\n\n" if not request.path.steps else "\\boxed{1}"

    scorer = ByText(table={"a": 0.2, "b": 0.8, "d": 0.4}, low=None)
    result, _ = searched(Beam(n=4, m=2), write, scorer=scorer)
    assert result.trace.selections[0].kept == ("0.1", "0.2")


def test_a_candidate_whose_scoring_failed_votes_like_an_average_one() -> None:
    def write(request: Request) -> str:
        return ["x \\boxed{1}", "y \\boxed{1}", "z \\boxed{2}"][place(request)]

    scorer = ByText(table={"x \\boxed{1}": 0.4, "z \\boxed{2}": 0.6}, low=None)
    result, _ = searched(Beam(n=3), write, scorer=scorer)
    assert result.answer is not None
    assert {vote.answer: vote.weight for vote in result.answer.votes} == pytest.approx({"1": 0.4 + 0.5, "2": 0.6})


@every_search
def test_a_reader_that_fails_in_mid_search_leaves_paths_without_a_score(search: StepSearch) -> None:
    def judge(sheet: Sheet) -> Opinion:
        first = sheet.pieces[0].find("\n\n") == len(sheet.pieces[0]) - 2
        return opinion(0.5) if first else Opinion(error="out of memory")

    result, records = searched(search, **asked(judge))
    assert chosen_of(result)
    assert any("out of memory" in note for note in result.notes)
    assert depth_of(result) > 1
    assert ended(records)


@every_search
def test_a_reader_that_always_fails_does_not_end_a_search(search: StepSearch) -> None:
    result, _ = searched(search, **asked(lambda sheet: Opinion(error="out of memory")))
    assert chosen_of(result)


@every_search
def test_empty_steps_are_steps(search: StepSearch) -> None:
    result, _ = searched(search, lambda request: "\n\n" if len(request.path.steps) < 2 else "\\boxed{42}")
    assert chosen_of(result) == "42"
    assert depth_of(result) == 3


@every_search
def test_nothing_but_empty_steps_ends_at_the_greatest_depth(search: StepSearch) -> None:
    result, _ = searched(search.model_copy(update={"depth": 3}), lambda request: "\n\n")
    assert depth_of(result) == 3
    assert result.answer is None


@every_search
def test_a_reply_of_no_token_at_all_has_ended(search: StepSearch) -> None:
    result, records = searched(search, lambda request: "")
    assert depth_of(result) == 1
    assert ended(records)
    assert result.answer is None or not result.answer.extracted


@every_search
def test_a_step_that_does_not_end_is_cut_and_its_path_leaves(search: StepSearch) -> None:
    most = search.model_copy(update={"step_tokens": 5})
    result, records = searched(most, lambda request: "on and " * 500)
    assert depth_of(result) == 1
    assert {path.tokens for path in paths_of(records).values()} == {5}
    assert result.answer is None
    assert result.samples.truncated >= 4


@every_search
def test_a_path_whose_step_does_not_end_votes_with_what_it_had_stated(search: StepSearch) -> None:
    most = search.model_copy(update={"step_tokens": 5})
    result, _ = searched(most, lambda request: "so \\boxed{42} and on " + "and on " * 500)
    assert chosen_of(result) == "42"


@every_search
@pytest.mark.parametrize("limit", ["depth", "max_tokens"])
def test_a_path_that_can_not_go_on_leaves_with_what_it_has_stated(search: StepSearch, limit: str) -> None:
    """Steps of two tokens without end. The last one states an answer."""

    def write(request: Request) -> str:
        return "\\boxed{42}\n\n" if len(request.path.steps) == 2 else f"{request.seed}\n\n"

    update: dict[str, Any] = {"depth": 3} if limit == "depth" else {}
    sampling = Sampling(max_tokens=6) if limit == "max_tokens" else None
    result, _ = searched(search.model_copy(update=update), write, sampling=sampling)
    assert depth_of(result) == 3
    assert chosen_of(result) == "42"


@every_search
def test_paths_are_longer_than_max_tokens_by_less_than_a_step(search: StepSearch) -> None:
    _, records = searched(
        search.model_copy(update={"step_tokens": 4}),
        lambda request: "one two three\n\n",
        sampling=Sampling(max_tokens=10),
    )
    assert max(path.tokens for path in paths_of(records).values()) == 12


@pytest.mark.parametrize("search", ROUNDS, ids=lambda search: search.name)
def test_children_that_say_the_same_are_read_once(search: StepSearch) -> None:
    def write(request: Request) -> str:
        return "the same\n\n" if len(request.path.steps) < 2 else "the same \\boxed{42}"

    result, records = searched(search, write, **asked(lambda sheet: opinion(0.5)))
    assert chosen_of(result) == "42"
    paths = paths_of(records)
    wanted = Counter(len({paths[call.key].text for call in batch}) for batch in batches(result))
    reads = Counter(call.key.rpartition(".")[0] for call in result.trace.calls if call.role == "verifier")
    assert Counter(reads.values()) == wanted


@every_search
def test_where_every_call_fails_the_job_says_so(search: StepSearch) -> None:
    with pytest.raises(NoSamples, match="overloaded"):
        searched(search, lambda request: Reply("", error="overloaded"))


@pytest.mark.parametrize("search", ROUNDS, ids=lambda search: search.name)
def test_where_every_call_fails_after_the_first_step_the_answer_is_of_what_had_ended(search: StepSearch) -> None:
    """The last of a batch ends at once, and nobody survives the second step."""

    def write(request: Request) -> Reply | str:
        if request.path.steps:
            return Reply("", error="overloaded")
        return "\\boxed{42}" if place(request) == 3 else f"{request.seed}\n\n"

    result, _ = searched(search, write, scorer=ByText(low=0.4))
    assert chosen_of(result) == "42"
    assert any("overloaded" in note for note in result.notes)


@every_search
@pytest.mark.parametrize("seed", range(3))
def test_calls_that_fail_now_and_then_are_no_answers_and_end_no_search(search: StepSearch, seed: int) -> None:
    def write(request: Request) -> Reply | str:
        return Reply("", error="overloaded") if request.seed % 5 == 0 else wandering(request)

    result, records = searched(search, write, seed=seed)
    assert chosen_of(result) in ("41", "42", "43")
    assert ended(records)


@pytest.mark.parametrize(
    "search",
    [
        *(search.model_copy(update={"n": 1}) for search in SEARCHES),
        Beam(n=3, m=7),
        DVTS(n=3, m=7),
        BestFirst(n=2, m=9, width=3),
        BestFirst(n=2, m=2, width=30),
        ABMCTS(n=2, width=30),
        Particles(n=1, depth=1),
        ETS(n=2, depth=1),
        Rebase(n=2, depth=1),
    ],
    ids=lambda search: repr(search),
)
def test_numbers_that_do_not_fit_together_are_no_trouble(search: StepSearch) -> None:
    sure = Sampling(max_tokens=40)
    result, records = searched(search, lambda request: f"{request.seed} \\boxed{{42}}", sampling=sure)
    assert chosen_of(result) == "42"
    assert len(ended(records)) >= search.n
    assert searched(search, sampling=sure)[0].stop == "done"


def test_best_first_that_does_not_branch_writes_one_path() -> None:
    result, records = searched(BestFirst(n=5, m=1))
    assert {len(batch) for batch in batches(result)} == {1}
    assert len(ended(records)) == 1


@every_search
@pytest.mark.parametrize("value", [0.0, 1.0, 7.5])
def test_scores_that_are_all_the_same_leave_plain_votes(search: StepSearch, value: float) -> None:
    result, records = searched(search, scorer=ByText(low=value, high=value))
    assert chosen_of(result)
    assert result.answer is not None
    votes = result.answer.votes
    assert votes[0].count == max(vote.count for vote in votes)
    assert ended(records)


@every_search
def test_scores_may_be_above_one(search: StepSearch) -> None:
    result, records = searched(search, scorer=ByText(low=0.0, high=30.0))
    assert chosen_of(result)
    assert ended(records)


def test_particles_with_scores_above_one_are_all_worth_the_same() -> None:
    def write(request: Request) -> str:
        return f"{request.seed}\n\n" if not request.path.steps else f"{request.seed} \\boxed{{42}}"

    result, _ = searched(Particles(n=8), write, scorer=ByText(low=2.0, high=30.0))
    assert len(result.trace.selections[0].kept) == 8
