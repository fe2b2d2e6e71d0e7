from __future__ import annotations

import math

import pytest

from tests.fakes import PROBLEM
from tests.tts.test_run import done
from tts.backends.fake import FakeBackend, Opinion, silent
from tts.errors import UsageError
from tts.run import Run
from tts.types import Path, Problem, Sheet
from verifiers import VERIFIERS, OutcomeReward

LOGITS = {"right": (math.log(3.0),), "wrong": (-math.log(3.0),), "two": (0.0, math.log(3.0)), "three": (0.0, 1.0, 2.0)}


class Reader(FakeBackend):
    """Knows some texts, fails at the others, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__(silent, judge=self.opinion)
        self.seen: list[Sheet] = []

    def opinion(self, sheet: Sheet) -> Opinion:
        self.seen.append(sheet)
        logits = LOGITS.get(sheet.pieces[0])
        return Opinion(((logits,),)) if logits else Opinion(error="overloaded")


def scores(reader: Reader, *texts: str, end: str = "") -> list[float | None]:
    async def body(problem: Problem, run: Run) -> list[Path]:
        return await run.score([Path.of(problem).append(text) for text in texts])

    paths: list[Path] = done(body, scorer=OutcomeReward(end=end), readers={"verifier": reader})
    return [path.score.value if path.score else None for path in paths]


def test_one_logit_is_squashed_and_of_two_classes_the_second_is_meant() -> None:
    assert scores(Reader(), "right", "wrong", "two") == pytest.approx([0.75, 0.25, 0.75])


def test_a_failed_reading_or_an_empty_path_has_no_score() -> None:
    reader = Reader()
    assert scores(reader, "", "gibberish", " \n", "right") == [None, None, None, pytest.approx(0.75)]
    assert [sheet.pieces for sheet in reader.seen] == [("gibberish",), ("right",)]


def test_the_same_text_is_read_once() -> None:
    reader = Reader()
    assert scores(reader, "right", "wrong", "right") == pytest.approx([0.75, 0.25, 0.75])
    assert len(reader.seen) == 2


@pytest.mark.parametrize("end", ["", "<|im_end|>"])
def test_the_whole_solution_is_read_and_the_end_of_its_turn(end: str) -> None:
    reader = Reader()
    scores(reader, "right", end=end)
    (sheet,) = reader.seen
    assert (sheet.before, sheet.pieces, sheet.mark) == (PROBLEM.messages, ("right",), end)
    assert (sheet.ask, sheet.place, sheet.turns, sheet.skip) == ((), "mark", False, 0)


def test_more_than_two_classes_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="says 3 numbers, and two are wanted"):
        scores(Reader(), "three")


def test_it_is_known_by_its_name() -> None:
    assert VERIFIERS["orm"] is OutcomeReward
