from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import BestOfN, SelfConsistency, Single
from strategies.self_consistency import borda
from tests.fakes import solved
from tests.tts.test_types import completion
from tts.answers import Code, Maths, Text
from tts.backends.base import Request
from tts.backends.fake import FakeBackend, Reply
from tts.run import Run
from tts.selection import Ballot, Group, ballots, best, elect, tally, weighed
from tts.strategy import Strategy
from tts.types import Answer, Budget, Path, Problem, Score

BUDGET = Budget(tokens=50_000)
ROOT = Path.of(Problem.ask("?", Maths()))


def ballot(answer: str, score: float | None = None) -> Ballot:
    path = ROOT.extend(completion(answer), "0.0")
    return Ballot(path if score is None else path.scored(Score(value=score, by="judge")), answer)


def in_turn(*texts: str, probabilities: tuple[float, ...] = ()) -> FakeBackend:
    """Says each text once, in the order in which the samples are drawn."""
    replies = iter(Reply(text, probability=probabilities[i] if probabilities else 0.5) for i, text in enumerate(texts))
    return FakeBackend(lambda request: next(replies))


def test_the_majority_wins_and_the_table_adds_up() -> None:
    backend = in_turn("\\boxed{1}", "\\boxed{2}", "\\boxed{2.0}", "no idea", "\\boxed{1/2}")
    answer = solved(SelfConsistency(n=5), BUDGET, backend=backend).answer
    assert answer is not None
    assert [(vote.answer, vote.count) for vote in answer.votes] == [("2", 2), ("1", 1), ("1/2", 1)]
    assert (answer.text, answer.support) == ("2", 2.0)


def test_a_tie_goes_to_the_group_that_came_first() -> None:
    backend = in_turn("\\boxed{3}", "\\boxed{4}", "\\boxed{4}", "\\boxed{3}")
    answer = solved(SelfConsistency(n=4), BUDGET, backend=backend).answer
    assert answer is not None
    assert answer.text == "3"


def test_one_heavy_sample_can_outweigh_a_majority() -> None:
    texts = ("\\boxed{3}", "\\boxed{4}", "\\boxed{4}")
    weighted = SelfConsistency(n=3, weights="weighted")
    answer = solved(weighted, BUDGET, backend=in_turn(*texts, probabilities=(0.9, 0.3, 0.3))).answer
    assert answer is not None
    assert answer.text == "3"
    assert answer.support == pytest.approx(0.9)


def test_borda_weighs_by_rank_and_not_by_score() -> None:
    groups: list[Group] = [[ballot("a", 0.9)], [ballot("b", 0.8), ballot("b", 0.1)], [ballot("c", 0.2)]]
    # ranks 1; 2 and 4; 3 of N = 4
    assert borda(groups, 0.5) == pytest.approx([4**0.5, 3**0.5 + 1, 2**0.5])
    assert borda(groups, 0.0) == [1, 2, 1]


def test_best_of_n_takes_the_highest_score_whatever_the_votes_say() -> None:
    texts = ("\\boxed{3}", "\\boxed{4}", "\\boxed{4}")
    answer = solved(BestOfN(n=3), BUDGET, backend=in_turn(*texts, probabilities=(0.9, 0.3, 0.3))).answer
    assert answer is not None
    assert (answer.text, [vote.answer for vote in answer.votes]) == ("3", ["4", "3"])


@pytest.mark.parametrize("strategy", [Single(), BestOfN(n=3), SelfConsistency(n=3)])
def test_a_finished_sample_is_returned_even_when_no_answer_can_be_read_from_it(strategy: Strategy) -> None:
    result = solved(strategy, BUDGET, backend=FakeBackend(lambda request: "I would rather not say"))
    assert result.answer is not None
    assert not result.answer.extracted
    assert result.answer.text == "I would rather not say"


def test_equivalent_spellings_are_found_by_math_verify_and_share_a_group() -> None:
    backend = in_turn("\\boxed{\\sqrt{8}}", "\\boxed{2\\sqrt{2}}", "\\boxed{3}")
    answer = solved(SelfConsistency(n=3), BUDGET, backend=backend).answer
    assert answer is not None
    assert [(vote.answer, vote.count) for vote in answer.votes] == [("\\sqrt{8}", 2), ("3", 1)]


def test_free_text_is_chosen_by_consensus_among_three_or_more() -> None:
    backend = in_turn("cats chase mice", "cats often chase mice", "the moon is far", probabilities=(0.2, 0.2, 0.9))
    answer = solved(BestOfN(n=3), BUDGET, backend=backend, problem=Problem.ask("Cats?", Text())).answer
    assert answer is not None
    assert answer.text.startswith("cats")
    assert "closest to the other 2" in answer.chosen


def test_free_text_is_chosen_by_confidence_between_two() -> None:
    backend = in_turn("cats chase mice", "the moon is far", probabilities=(0.2, 0.9))
    answer = solved(BestOfN(n=2), BUDGET, backend=backend, problem=Problem.ask("Cats?", Text())).answer
    assert answer is not None
    assert answer.text == "the moon is far"


def test_a_judge_goes_before_consensus() -> None:
    paths = [ROOT.extend(completion(text), "0.0") for text in ("cats chase mice", "cats chase mice", "moon")]
    judged = [path.scored(Score(value=value, by="judge")) for path, value in zip(paths, (0.1, 0.2, 0.7), strict=True)]
    answer = best(Text(), ballots(Text(), judged))
    assert answer is not None
    assert (answer.text, answer.chosen) == ("moon", "highest judge of 3")


def outputs(program: str, given: str) -> str | None:
    """A sandbox that knows three programs."""
    known = {"return 2*x": {"1": "2", "3": "6"}, "return x+x": {"1": "2", "3": "6"}, "return x": {"1": "1"}}
    return known[program].get(given)


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        (Code(inputs=("1", "3")), [("return x", 1), ("return 2*x", 2)]),
        (Code(tests=("3",)), [("return 2*x", 2)]),
    ],
)
def test_programs_are_grouped_by_what_they_do_where_there_is_a_sandbox(
    kind: Code, groups: list[tuple[str, int]]
) -> None:
    backend = in_turn(*(f"```python\n{body}\n```" for body in ("return x", "return 2*x", "return x+x")))
    problem = Problem.ask("Double it.", kind)
    answer = solved(SelfConsistency(n=3), BUDGET, backend=backend, problem=problem, runner=outputs).answer
    assert answer is not None
    assert sorted((vote.answer, vote.count) for vote in answer.votes) == sorted(groups)
    assert answer.text == "return 2*x"


def test_programs_are_grouped_by_syntax_where_there_is_no_sandbox() -> None:
    backend = in_turn(*(f"```python\n{body}\n```" for body in ("x = 1", "x  =  1  # one", "x = 2")))
    answer = solved(SelfConsistency(n=3), BUDGET, backend=backend, problem=Problem.ask("x?", Code())).answer
    assert answer is not None
    assert [vote.count for vote in answer.votes] == [2, 1]


def test_a_ballot_without_a_score_is_an_average_one_and_no_groups_elect_nobody() -> None:
    assert weighed([[ballot("a")], [ballot("b", 0.2), ballot("b", 0.6)]]) == pytest.approx([0.4, 0.8])
    assert weighed([[ballot("a")], [ballot("b"), ballot("b")]]) == [1.0, 2.0]
    assert weighed([[ballot("a", 0.0)], [ballot("b", 0.0), ballot("b", 0.0)]]) == [1.0, 2.0]
    assert elect([], [], "majority") is None


@pytest.mark.parametrize("weighing", [weighed, lambda groups: borda(groups, 0.5)], ids=["weighted", "borda"])
def test_votes_without_any_score_are_plain_ones_and_called_so(weighing: Callable[[list[Group]], list[float]]) -> None:
    groups = [[ballot("3")], [ballot("4"), ballot("4")]]
    answer = elect(groups, weighing(groups), "weighted")
    assert answer is not None
    assert (answer.text, answer.support) == ("4", 2.0)
    assert answer.chosen == "majority, for want of scores: 2 of 3 votes"


@pytest.mark.parametrize("scores", [[None, 0.0, 0.2], [0.2, None, 0.2], [None, 0.2], [None, 0.0]])
def test_a_sample_that_nobody_could_score_is_not_the_best(scores: list[float | None]) -> None:
    cast = [ballot("a", score) for score in scores]
    chosen, elected = best(Maths(), cast), elect([cast], [1.0], "weighted")
    assert chosen is not None
    assert elected is not None
    assert chosen.path.score is not None
    assert chosen.support == chosen.path.score.value == max(score for score in scores if score is not None)
    assert elected.path.score == chosen.path.score


class Counting(Strategy):
    """Tallies given texts."""

    name: ClassVar[str] = "counting"
    when: ClassVar[str] = "In tests."

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        groups = await tally(problem.kind, ballots(problem.kind, await run.sample([Path.of(problem)], 12)), run)
        answer = elect(groups, [float(len(group)) for group in groups], "majority")
        if answer:
            yield answer


@given(st.lists(st.sampled_from(["1", "2", "3", "0.5", "1/2", "x"]), min_size=12, max_size=12))
def test_votes_are_never_lost_or_invented(answers: list[str]) -> None:
    backend = in_turn(*(f"\\boxed{{{answer}}}" if answer != "x" else "no idea" for answer in answers))
    result = solved(Counting(), BUDGET, backend=backend)
    counted = sum(vote.count for vote in result.answer.votes) if result.answer and result.answer.extracted else 0
    assert counted == sum(answer != "x" for answer in answers)


def test_a_request_names_its_seed_so_that_handlers_can_be_pure() -> None:
    seeds = set()

    def handler(request: Request) -> str:
        seeds.add(request.seed)
        return json.dumps(request.seed)

    solved(BestOfN(n=9), BUDGET, backend=FakeBackend(handler))
    assert len(seeds) == 9
