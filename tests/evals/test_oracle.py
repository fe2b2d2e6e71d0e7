"""The bound of every verifier in the lab: it knows which lines are right."""

from __future__ import annotations

import random

import pytest

from evals.lab import chain
from evals.lab.oracle import Oracle, judged
from strategies import BestOfN
from tests.fakes import solved
from tests.tts.test_run import done
from tts.backends.fake import FakeBackend
from tts.run import Run
from tts.types import Budget, Message, Path, Problem, Score

MADE = chain.generate(random.Random(0), 7)
PROBLEM = Problem(id="chain", messages=(Message(role="user", content=MADE.prompt),), kind=chain.Values(), step_end="\n")
ROOT = Path.of(PROBLEM)


def scores(*texts: str) -> list[Score | None]:
    async def body(problem: Problem, run: Run) -> list[Score | None]:
        return [path.score for path in await run.score([ROOT.append(text) for text in texts])]

    found: list[Score | None] = done(body, problem=PROBLEM, scorer=Oracle())
    return found


def test_every_beginning_of_the_right_solution_is_right() -> None:
    beginnings = ["".join(MADE.steps[: i + 1]) for i in range(len(MADE.steps))]
    assert scores(*beginnings) == [Score(value=1.0, by="oracle")] * len(MADE.steps)


@pytest.mark.parametrize("line", range(len(MADE.steps)))
def test_one_wrong_line_is_enough_and_what_follows_does_not_make_up_for_it(line: int) -> None:
    lines = list(MADE.steps)
    lines[line] = "?" + lines[line]
    assert scores("".join(lines[: line + 1]), "".join(lines)) == [Score(value=0.0, by="oracle")] * 2
    assert judged(ROOT.append("".join(lines)))[line] is False


def test_a_line_that_has_not_ended_is_no_right_line_yet() -> None:
    assert scores(MADE.steps[0] + MADE.steps[1][:3]) == [Score(value=0.0, by="oracle")]


def test_nothing_written_has_no_score() -> None:
    assert scores("") == [None]


def test_it_chooses_the_right_sample_and_costs_nothing() -> None:
    right = "".join(MADE.steps)
    texts = iter(["=1,2,3", right.replace(f"={MADE.answer}", "=0,0,0"), right, "=4,5,6"])
    result = solved(
        BestOfN(n=4),
        Budget(tokens=5_000),
        backend=FakeBackend(lambda request: next(texts)),
        problem=PROBLEM,
        scorer=Oracle(),
    )
    assert result.answer is not None
    assert (result.answer.text, result.answer.support) == (MADE.answer, 1.0)
    assert set(result.usage) == {"policy"}
