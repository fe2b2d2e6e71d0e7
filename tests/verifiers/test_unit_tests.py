from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path as File
from typing import ClassVar

import pytest

from strategies import BestOfN, SelfConsistency
from tests.tts.test_sandbox import no_bubblewrap
from tts.answers import AnswerKind, Code, Maths, Runner
from tts.backends.fake import FakeBackend, Reply
from tts.clock import run_virtual
from tts.errors import UsageError
from tts.journal import Computed, Journal, MemoryJournal
from tts.replay import Sandboxed
from tts.run import Run
from tts.sandbox import Sandbox
from tts.selection import ballots, best
from tts.solve import solve
from tts.strategy import Strategy
from tts.types import Answer, Budget, Need, Path, Problem, Result
from verifiers import VERIFIERS, UnitTests

ROOT = File(__file__).parents[2]
DOUBLES = Code(tests=("assert f(1) == 2", "assert f(2) == 4", "assert f(0) == 0"))
KNOWN = {"2*x": DOUBLES.tests, "x+1": DOUBLES.tests[:1], "x": DOUBLES.tests[2:], "y": ()}


class Listing(Strategy):
    """Chooses the best and shows what every sample scored."""

    name: ClassVar[str] = "listing"
    when: ClassVar[str] = "In tests."
    n: int

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"scores"})

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        paths = await run.score(await run.sample([Path.of(problem)], self.n))
        chosen = best(problem.kind, ballots(problem.kind, paths))
        told = json.dumps([path.score and path.score.value for path in paths])
        yield Answer(text=chosen.text if chosen else "", path=paths[0], extracted=True, support=0.0, chosen=told)


def knows(program: str, given: str) -> str | None:
    """A sandbox that has heard of four programs, and fails itself on all others."""
    if program not in KNOWN:
        raise UsageError("the sandbox failed: no processes are left")
    return "" if given in KNOWN[program] else None


def job(
    *programs: str,
    kind: AnswerKind = DOUBLES,
    runner: Runner | None = knows,
    journal: Journal | None = None,
    strategy: Strategy | None = None,
) -> Result:
    replies = iter([Reply(f"```python\n{program}\n```" if program else "no idea") for program in programs])
    main = solve(
        Problem.ask("Double it.", kind),
        strategy or Listing(n=len(programs)),
        {"policy": FakeBackend(lambda request: next(replies))},
        budget=Budget(tokens=50_000),
        scorer=UnitTests(),
        journal=journal,
        runner=runner,
    )
    return run_virtual(main)


def scores(result: Result) -> list[float | None]:
    assert result.answer is not None
    listed: list[float | None] = json.loads(result.answer.chosen)
    return listed


def test_the_score_is_the_share_of_public_tests_passed_and_the_best_program_is_chosen() -> None:
    result = job("x", "2*x", "y")
    assert scores(result) == [pytest.approx(1 / 3), 1.0, 0.0]
    assert result.answer is not None
    assert result.answer.text == "2*x"


def test_a_sample_without_a_program_has_no_score() -> None:
    assert scores(job("", "y")) == [None, 0.0]


def test_a_sandbox_that_fails_gives_no_score_and_never_a_zero() -> None:
    assert scores(job("while True: fork()", "x")) == [None, pytest.approx(1 / 3)]


def test_without_public_tests_nothing_is_run_and_nothing_scored() -> None:
    assert scores(job("unheard", "of", kind=Code())) == [None, None]


def test_the_same_program_is_tested_once() -> None:
    journal = MemoryJournal()
    third = pytest.approx(1 / 3)
    assert scores(job("x", "2*x", "x", "x", journal=journal)) == [third, 1.0, third, third]
    assert sorted(record.value for record in journal.records if isinstance(record, Computed)) == [1, 3]


def test_a_finished_job_is_read_back_without_a_sandbox() -> None:
    journal = MemoryJournal()
    first = job("x", "2*x", "gone", journal=journal)
    known = Sandboxed(knows.__qualname__)
    again = job("x", "2*x", "gone", journal=MemoryJournal(journal.records), runner=known)
    assert again == first


@pytest.mark.parametrize("strategy", [BestOfN(n=2), SelfConsistency(n=2, weights="weighted")])
def test_without_a_sandbox_it_is_off_before_the_first_token(strategy: Strategy) -> None:
    with pytest.raises(UsageError, match="unit tests are off: this job has no sandbox"):
        job(strategy=strategy, runner=None)  # no program is ever drawn


def test_answers_that_are_no_programs_are_refused_before_the_first_token() -> None:
    with pytest.raises(UsageError, match="unit tests are of programs, and an answer of kind 'maths' is none"):
        job(kind=Maths(), strategy=BestOfN(n=2))


def test_a_strategy_that_asks_for_no_scores_needs_no_sandbox() -> None:
    assert job("x", "x", strategy=SelfConsistency(n=2), runner=None).answer is not None


def test_a_program_that_never_ends_scores_what_it_passed() -> None:
    if trouble := no_bubblewrap():
        pytest.skip(trouble)
    kind = Code(tests=("assert f(0) == 0", "assert f(1) == 1"))
    slow, wrong = "def f(x):\n    while x: pass\n    return x", "def f(x): return 2"
    assert scores(job(slow, wrong, kind=kind, runner=Sandbox(seconds=1.0).checked())) == [0.5, 0.0]


def test_the_command_line_says_why_it_is_off() -> None:
    command = "from service.cli import main; main()"
    kind = DOUBLES.model_dump_json()
    ran = subprocess.run(
        [sys.executable, "-c", command, "solve", "?", "--answer", kind, "--verifier", "unit_tests"],
        env={"PATH": "", "HOME": os.environ.get("HOME", "/")},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1] == "tts: unit tests are off: bwrap is not installed; apt install bubblewrap"


def test_it_is_known_by_its_name() -> None:
    assert VERIFIERS["unit_tests"] is UnitTests
