from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from strategies import BestOfN
from tests.fakes import PROBLEM, solved
from tests.tts.test_run import done
from tts.backends.base import Request
from tts.backends.fake import FakeBackend, Opinion, Reply, silent
from tts.errors import UsageError
from tts.journal import MemoryJournal, Settled
from tts.run import Run
from tts.types import Budget, Message, Path, Problem, Sheet
from verifiers import VERIFIERS, Judge
from verifiers.judge import VERDICT

CHANCES = {"right": 0.9, "wrong": 0.2}


def verdict(chance: float) -> Opinion:
    return Opinion((((math.log(chance), math.log(1 - chance)),),))


def reads(sheet: Sheet) -> Opinion:
    """By the first word it knows, of the rationale or else of the solution."""
    asked = sheet.before[-1]
    assert isinstance(asked, Message)
    words = (sheet.pieces[0] or asked.content.split("A proposed solution:")[1]).split()
    return verdict(next((CHANCES[word] for word in words if word in CHANCES), 0.5))


def scores(scorer: Judge, judge: FakeBackend, *texts: str, **options: object) -> list[float | None]:
    async def body(problem: Problem, run: Run) -> list[Path]:
        return await run.score([Path.of(problem).append(text) for text in texts])

    paths: list[Path] = done(body, scorer=scorer, readers={"judge": judge}, **options)
    return [path.score.value if path.score else None for path in paths]


def writer(*rationales: Reply | str) -> FakeBackend:
    """A judge that writes these, in this order."""
    written: Iterator[Reply | str] = iter(rationales)
    return FakeBackend(lambda request: next(written), judge=reads)


def test_the_score_is_the_chance_of_yes_against_no() -> None:
    judge = FakeBackend(silent, judge=reads)
    assert scores(Judge(), judge, "right", "wrong", "who knows") == pytest.approx([0.9, 0.2, 0.5])


def test_the_same_solution_is_read_once_and_an_empty_one_has_no_score() -> None:
    judge = FakeBackend(silent, judge=reads)
    assert scores(Judge(), judge, "right", "", "right", " \n") == [pytest.approx(0.9), None, pytest.approx(0.9), None]
    assert judge.calls == 1


def test_braces_of_a_solution_are_text() -> None:
    seen: list[Sheet] = []

    def judge(sheet: Sheet) -> Opinion:
        seen.append(sheet)
        return verdict(0.5)

    scores(Judge(), FakeBackend(silent, judge=judge), "\\boxed{42} {solution} {0}")
    (sheet,) = seen
    assert isinstance(sheet.before[-1], Message)
    assert "\\boxed{42} {solution} {0}" in sheet.before[-1].content
    assert sheet.before[-1].content.startswith(PROBLEM.messages[-1].content)
    assert (sheet.pieces, sheet.ask, sheet.place, sheet.mark) == (("",), ("Yes", "No"), "piece", "")


def test_rationales_count_as_often_as_they_were_written() -> None:
    judge = writer("right", "right", "wrong")
    (score,) = scores(Judge(rationales=3), judge, "so")
    assert score == pytest.approx((0.9 + 0.9 + 0.2) / 3)
    assert judge.calls == 3 + 2, "a rationale that comes twice is read once"


def test_a_rationale_that_failed_is_left_out() -> None:
    judge = writer(Reply("", error="overloaded"), "wrong", "right")
    assert scores(Judge(rationales=3), judge, "so") == [pytest.approx((0.9 + 0.2) / 2)]


def test_without_any_rationale_or_reading_there_is_no_score() -> None:
    broken = writer(*[Reply("", error="overloaded")] * 2)
    assert scores(Judge(rationales=2), broken, "so") == [None]
    silenced = FakeBackend(silent, judge=lambda sheet: Opinion(error="overloaded"))
    assert scores(Judge(), silenced, "right", "wrong") == [None, None]


def test_a_verdict_is_asked_for_after_the_rationale() -> None:
    seen: list[Sheet] = []

    def judge(sheet: Sheet) -> Opinion:
        seen.append(sheet)
        return verdict(0.5)

    scores(Judge(rationales=1), FakeBackend(lambda request: "it adds up", judge=judge), "so")
    assert [sheet.pieces for sheet in seen] == [(f"it adds up{VERDICT}",)]


def test_rationales_are_paid_in_tokens_and_verdicts_in_flops() -> None:
    journal = MemoryJournal()
    judge = FakeBackend(lambda request: "it all adds up", judge=reads)
    result = solved(
        BestOfN(n=2),
        Budget(tokens=1_000),
        backend=FakeBackend(lambda request: f"\\boxed{{{request.seed}}}"),
        scorer=Judge(rationales=2),
        readers={"judge": judge},
        journal=journal,
    )
    usage = result.usage["judge"]
    assert usage.completion_tokens == judge.generated == 2 * 2 * 4
    assert result.bill.tokens == 2 + judge.generated
    verdicts = [each for each in journal.records if isinstance(each, Settled) and each.verdicts]
    assert [each.spend.tokens for each in verdicts] == [0, 0], "what was written twice is read once"
    assert all(each.spend.flops > 0 for each in verdicts)
    calls = [each.spend for each in journal.records if isinstance(each, Settled)]
    assert result.bill.flops == sum(spend.flops for spend in calls)


def test_a_start_of_token_ids_is_refused_in_one_line() -> None:
    async def body(problem: Problem, run: Run) -> list[Path]:
        return await run.score([Path(start=(1, 2)).append("a")])

    with pytest.raises(UsageError, match="begins with token ids"):
        done(body, scorer=Judge(), readers={"judge": FakeBackend(silent, judge=reads)})


def test_without_its_model_it_is_refused_before_the_first_token() -> None:
    def never(request: Request) -> Reply:
        raise AssertionError("a token was asked for")

    with pytest.raises(UsageError, match="judge needs a model that reads; give judge its model"):
        solved(BestOfN(n=2), Budget(tokens=100), backend=FakeBackend(never), scorer=Judge())


def test_it_is_known_by_its_name() -> None:
    assert VERIFIERS["judge"] is Judge
