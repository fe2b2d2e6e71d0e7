"""One sample: the control that everything else is measured against."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import ClassVar

from tts.run import Run
from tts.selection import ballots, best, unextracted
from tts.strategy import Strategy
from tts.types import Answer, Path, Problem


class Single(Strategy):
    """Samples once and answers with that."""

    name: ClassVar[str] = "single"
    when: ClassVar[str] = "As the baseline, or when the model is almost always right at once."

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        paths = await run.sample([Path.of(problem)])
        answer = best(problem.kind, ballots(problem.kind, paths)) or unextracted(paths)
        if answer is not None:
            yield answer
