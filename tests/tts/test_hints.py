"""What a result says of things that should have been seen in its samples, and were in none."""

from __future__ import annotations

import pytest

from strategies import Beam, SelfConsistency
from tests.fakes import solved
from tts.answers import Maths
from tts.backends.base import Request
from tts.backends.fake import FakeBackend, Reply
from tts.types import Budget, Problem, Result
from verifiers import Confidence

BUDGET = Budget(tokens=5_000)
THINKING = Problem.ask("6 * 7?", Maths(after="</think>"))


def saying(text: str) -> FakeBackend:
    """Says the text, and nothing more where that has begun."""

    def handler(request: Request) -> Reply:
        begun = "".join(step.text for step in request.path.steps)
        return Reply(text.removeprefix(begun), probability=0.5)

    return FakeBackend(handler)


def searched(text: str, step_end: str) -> Result:
    problem = Problem.ask("6 * 7?", Maths()).model_copy(update={"step_end": step_end})
    return solved(Beam(n=4), BUDGET, backend=saying(text), problem=problem, scorer=Confidence())


def test_a_search_that_never_saw_the_end_of_a_step_says_so() -> None:
    (note,) = [each for each in searched("one\ntwo\n\\boxed{42}", "\n\n").notes if "--step-end" in each]
    assert "no step ended with '\\n\\n'" in note


def test_a_search_that_saw_steps_says_nothing_of_them() -> None:
    assert not any("--step-end" in note for note in searched("one\ntwo\n\\boxed{42}", "\n").notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [("I wonder \\boxed{42}", True), ("I wonder </think> \\boxed{42}", False)],
)
def test_samples_of_which_none_ended_its_thinking_are_said_to(text: str, said: bool) -> None:
    result = solved(SelfConsistency(n=3), BUDGET, backend=saying(text), problem=THINKING)
    assert any("no sample ended its thinking with '</think>'" in note for note in result.notes) is said


def test_whole_samples_need_no_steps_and_plain_ones_no_thinking() -> None:
    problem = Problem.ask("6 * 7?", Maths())
    assert not solved(SelfConsistency(n=3), BUDGET, backend=saying("\\boxed{42}"), problem=problem).notes
