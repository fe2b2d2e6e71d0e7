"""With a verifier that knows, what a search chooses is right whenever anything that it found is."""

from __future__ import annotations

import asyncio
import random
from importlib.util import find_spec

import pytest

from evals.lab import chain
from evals.lab.oracle import Oracle, judged
from evals.lab.settings import MODELS
from evals.suites.chain import SUITE
from strategies import ABMCTS, DVTS, ETS, Beam, BestFirst, Particles, Rebase
from strategies.tree import StepSearch
from tests.strategies.scripted import ByText, searched
from tts.backends.base import Request
from tts.solve import solve
from tts.types import Budget, Message, Problem, Result

SEARCHES: list[StepSearch] = [Beam(n=6), DVTS(n=8), Rebase(n=6), ETS(n=6), Particles(n=6), BestFirst(n=6, width=8)]
every_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
every_select = pytest.mark.parametrize("select", ["weighted", "best"])


def posed(made: chain.Chain) -> Problem:
    return Problem(
        id="chain", messages=(Message(role="user", content=made.prompt),), kind=chain.Values(), step_end="\n"
    )


def slips(request: Request) -> str:
    """Writes the right next line, or, one time in five, a wrong one; whoever went wrong ends with a wrong answer."""
    path, draw = request.path, random.Random(request.seed)
    (message,) = path.start
    assert isinstance(message, Message)
    steps = chain.read(message.content).steps
    taken = len(path.steps)
    if taken == len(steps) - 1:
        right = all(judged(path)) and draw.random() < 0.8
        return steps[taken] if right else f"={draw.randrange(23)},23,23"
    return steps[taken] if draw.random() < 0.8 else f"{draw.choice(chain.NAMES)}=0+0=0+0={draw.randrange(23)}\n"


def chosen_where_covered(result: Result, answer: str) -> bool:
    """Whether some candidate was right; then the chosen one has to be."""
    assert result.answer is not None
    covered = answer in {vote.answer for vote in result.answer.votes}
    if covered:
        assert result.answer.text == answer
        assert all(judged(result.answer.path))
    return covered


@every_search
def test_a_search_with_an_oracle_chooses_what_is_right_whenever_it_is_there(search: StepSearch) -> None:
    covered = 0
    for seed in range(6):
        made = chain.generate(random.Random(seed), 4)
        result, _ = searched(search, slips, problem=posed(made), scorer=Oracle(), seed=seed)
        covered += chosen_where_covered(result, made.answer)
    assert covered >= 3


@every_search
def test_of_right_and_wrong_candidates_the_best_one_is_right(search: StepSearch) -> None:
    made = chain.generate(random.Random(1), 4)
    best = search.model_copy(update={"select": "best"})
    result, _ = searched(best, slips, problem=posed(made), scorer=Oracle(), seed=1)
    assert result.answer is not None
    assert result.answer.support in (0.0, 1.0)
    assert (result.answer.text == made.answer) == bool(result.answer.support)


def test_ab_mcts_with_a_verifier_that_knows_chooses_what_is_right() -> None:
    """Among answers of one step: its trees are wide."""

    def write(request: Request) -> str:
        return "right \\boxed{42}" if request.seed % 12 == 0 else f"wrong \\boxed{{{request.seed % 2}}}"

    knows, covered = ByText(table={"right \\boxed{42}": 1.0}, high=0.0), 0
    for seed in range(6):
        result, _ = searched(ABMCTS(n=16), write, scorer=knows, seed=seed)
        assert result.answer is not None
        there = "42" in {vote.answer for vote in result.answer.votes}
        covered += there
        assert (result.answer.text == "42") == there
    assert covered


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_the_labs_policy_with_an_oracle_is_right_whenever_a_candidate_is() -> None:
    from tts.backends.local import LocalBackend

    backend, item = LocalBackend(MODELS / "chain-2m"), SUITE.items("dev", 2)[1]
    budget = Budget(tokens=3_000)
    results = [
        asyncio.run(
            solve(item.problem, search, {"policy": backend}, budget=budget, scorer=Oracle(), sampling=SUITE.sampling)
        )
        for search in SEARCHES
    ]
    assert all(chosen_where_covered(result, item.reference) for result in results)
