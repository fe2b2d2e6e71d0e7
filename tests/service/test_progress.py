"""Plain lines of progress: when there is one, and how long it says that the rest will take."""

from __future__ import annotations

import pytest

from service.progress import QUIET_SECONDS, lines


class Clock:
    """Stands still until it is told to move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """What was said after each piece of news; None where nothing was."""

    def __init__(self, capsys: pytest.CaptureFixture[str], size: int, about: object = "") -> None:
        self._capsys, self._clock = capsys, Clock()
        self._say = lines("rows", size, about, self._clock)

    def at(self, now: float, done: int, new: int) -> str | None:
        self._clock.now = now
        self._say(done, new)
        return self._capsys.readouterr().err.rstrip("\n") or None


def test_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched(capsys, 1000, about="all is well")
    assert watched.at(QUIET_SECONDS - 1, 1, 1) is None
    assert watched.at(QUIET_SECONDS, 2, 2) == "2 of 1,000 rows; all is well"
    assert watched.at(QUIET_SECONDS + 1, 3, 3) is None
    assert watched.at(2 * QUIET_SECONDS, 4, 4) == "4 of 1,000 rows; all is well"


def test_the_time_left_goes_by_what_came_after_the_first_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Many are under way side by side, so that the first one takes long, and the second is right behind it."""
    watched = Watched(capsys, 100)
    assert watched.at(1000.0, 1, 1) == "1 of 100 rows"
    assert watched.at(1010.0, 11, 11) == "11 of 100 rows, 89 s left"
    assert watched.at(1099.0, 100, 100) == "100 of 100 rows, 0 s left"


def test_what_was_there_already_does_not_make_the_rest_seem_quicker(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched(capsys, 100)
    assert watched.at(10.0, 50, 0) == "50 of 100 rows"
    assert watched.at(20.0, 51, 1) == "51 of 100 rows"
    assert watched.at(40.0, 61, 11) == "61 of 100 rows, 78 s left"


def test_before_a_small_share_is_done_nobody_says_how_long_the_rest_takes(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched(capsys, 1000)
    watched.at(0.0, 1, 1)
    assert watched.at(10.0, 20, 20) == "20 of 1,000 rows"
    assert watched.at(20.0, 22, 22) == "22 of 1,000 rows, 931 s left"
