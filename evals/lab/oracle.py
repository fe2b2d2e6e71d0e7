"""The verifier that nobody can have: it solves the problem and compares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evals.lab import chain
from tts.run import Run
from tts.strategy import Verifier
from tts.types import Message, Path, Score


class Oracle(Verifier):
    """1 for a `chain` path whose every line so far is right, 0 for any other: what a search could reach at best."""

    name: ClassVar[str] = "oracle"
    when: ClassVar[str] = "In the lab, as the bound of every verifier."

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        return [Score(value=float(all(judged(path))), by=self.name) if path.text else None for path in paths]


def judged(path: Path) -> list[bool]:
    """Whether each line is right."""
    (message,) = path.start
    assert isinstance(message, Message), "a chain problem is one message"
    return chain.judge(chain.read(message.content), path.text)
