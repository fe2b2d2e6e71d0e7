from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from service.display import Progress, progress, shortened, show
from strategies import Beam, SelfConsistency
from tests.fakes import PROBLEM, books_of, solved, thinker, unreliable
from tts.answers import Text
from tts.backends.base import Request
from tts.backends.fake import FakeBackend, Reply
from tts.journal import MemoryJournal
from tts.types import Budget, Problem

BUDGET = Budget(tokens=4_000, seconds=600)
STRATEGY = SelfConsistency(n=12)


def watched(handler: Callable[[Request], Reply] = thinker) -> Progress:
    state, journal = Progress(PROBLEM, STRATEGY, BUDGET), MemoryJournal()
    solved(STRATEGY, BUDGET, backend=FakeBackend(handler), observe=state.add, journal=journal)
    assert state.spent == books_of(journal.records).spent.tokens
    return state


def rendered(state: Progress) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(state)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_live_view_shows_budget_samples_and_vote() -> None:
    text = rendered(watched())
    assert "12 samples, 0 in flight" in text
    assert "of 4,000 tokens" in text
    assert "42" in text
    assert "█" in text


def test_samples_without_an_answer_are_shown_as_such() -> None:
    def silent(request: Request) -> Reply:
        return Reply("I do not know" if request.seed % 2 else "\\boxed{1}")

    assert "no answer" in rendered(watched(silent))


def test_failed_calls_are_no_samples() -> None:
    state = watched(unreliable)
    assert state.settled < 13
    assert not state.held


def test_a_step_that_goes_on_is_no_sample() -> None:
    def stepping(request: Request) -> Reply:
        begun = "".join(step.text for step in request.path.steps)
        return Reply("6 * 7\n\nis \\boxed{42}".removeprefix(begun))

    state = Progress(PROBLEM, Beam(n=2), BUDGET)
    result = solved(Beam(n=2), BUDGET, backend=FakeBackend(stepping), observe=state.add)
    assert (state.settled, state.steps) == (result.samples.finished, 2)
    assert "2 steps, 2 samples" in state.line()


def test_free_text_has_no_vote_to_show() -> None:
    state = Progress(Problem.ask("A poem.", Text()), STRATEGY, BUDGET)
    solved(STRATEGY, BUDGET, observe=state.add)
    assert "no answer" not in rendered(state)


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.display.QUIET_SECONDS", 0.0)
    with progress(PROBLEM, STRATEGY, BUDGET) as observe:
        solved(STRATEGY, BUDGET, observe=observe)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("self_consistency: ") for line in lines)
    assert "in flight" in lines[5]


def test_the_end_shows_what_was_lost_and_what_is_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    def deaf(request: Request) -> Reply:
        return Reply("word " * 100, latency=60.0, stubborn=60.0)

    result = solved(SelfConsistency(n=2), Budget(seconds=1.0), backend=FakeBackend(deaf))
    assert show(result, "self_consistency", as_json=False) == 3
    out = capsys.readouterr().out
    assert "no answer" in out
    assert "of them lost" in out
    assert "note    the search ended without an answer (deadline)" in out


def test_long_answers_are_shortened_and_show_it() -> None:
    assert shortened("abcdef", 4) == "abc…"
    assert shortened("abcd", 4) == "abcd"
