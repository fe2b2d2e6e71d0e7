"""Beam search guided by a process reward model."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field

from strategies.tree import TreeSearch, distinct, ranked, repeated, spread
from tts.run import Run
from tts.types import Path


class Beam(TreeSearch):
    """Of N scored prefixes keep the best N/M, and continue each of those in M ways (Snell et al. 2024, "Scaling LLM
    test-time compute optimally", section 5.1, and the public code search-and-learn):

        b <- N first steps;  repeat: score b;  b <- the best N/M of b, each with M next steps.

    Departures: a finished path leaves the beam at once, whatever its score, and takes its place with it, so that at
    most N solutions are written; all of them are candidates. Fewer finished ones are not padded with copies. A path of
    `depth` steps is a candidate as it stands, where the code has it written to its end. Of prefixes that say the same
    one is kept, as in the code; where there are fewer than N/M others, each has more than M next steps.
    """

    name: ClassVar[str] = "beam"
    when: ClassVar[str] = "When a good process reward model is at hand, problems are hard and N is small."

    m: Annotated[int, Field(ge=1, le=1_000, description="continuations of a kept path (M)")] = 4

    async def allot(self, run: Run, paths: list[Path], width: int) -> list[Path]:
        kept = distinct(ranked(paths))[: math.ceil(width / self.m)]
        return repeated(kept, [self.m] * len(kept))[:width] if self.m * len(kept) >= width else spread(kept, width)
