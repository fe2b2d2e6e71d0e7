"""Outcome reward models: one number for a whole solution, from a classifier's head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from tts.run import Run
from tts.strategy import Verifier
from tts.types import Looks, Path, Problem, Role, Score, Sheet
from verifiers.process_reward import conversation, second_class


class OutcomeReward(Verifier):
    """The sigmoid of a sequence classifier's one logit after the solution, or the chance of the second of its two
    classes (Cobbe et al. 2021, "Training verifiers to solve math word problems"). An unfinished path is read like a
    finished one. The same text is read once; a path whose reading failed, or that is empty, has no score.
    """

    name: ClassVar[str] = "orm"
    when: ClassVar[str] = "To choose among whole samples, where a reward model of answers is at hand."
    reads: ClassVar[Role | None] = "verifier"

    model: Annotated[str, Field(description="the reward model: a backend, as --backend names it")] = ""
    end: Annotated[str, Field(description="the token that ends the model's turns, such as <|im_end|>")] = ""

    def trial(self, problem: Problem) -> Sheet | None:
        return self._sheet(Path.of(problem).append("1"))

    async def score(self, paths: Sequence[Path], run: Run) -> list[Score | None]:
        sheets = [self._sheet(path) for path in paths]
        read = iter(await run.read([sheet for sheet in sheets if sheet], model="verifier"))
        verdicts = [next(read) if sheet else None for sheet in sheets]
        return [
            Score(value=_value(each.pieces[0]), by=self.name) if each and each.pieces else None for each in verdicts
        ]

    def _sheet(self, path: Path) -> Sheet | None:
        if not path.text.strip():
            return None
        return Sheet(before=conversation(path), pieces=(path.text,), mark=self.end)


def _value(looks: Looks) -> float:
    (logits,) = looks
    if len(logits) == 1:
        return 1.0 / (1.0 + math.exp(min(700.0, -logits[0])))
    return second_class(looks)
