"""REBASE: reward-balanced search."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from strategies.allocation import balanced
from strategies.tree import TreeSearch, repeated
from tts.run import Run
from tts.selection import values
from tts.types import Path


class Rebase(TreeSearch):
    """Every open path gets a share of the next N_rem steps that grows with its score (Wu et al. 2025, "Inference
    scaling laws: an empirical analysis of compute-optimal inference for LLM problem-solving", section 3.2, and its
    public code): W_i = ceil(N_rem softmax(R_i / T)), the best first, until N_rem are given away; N_rem is N less the
    solutions that are finished.

    Departure: chance orders equal scores (`strategies.allocation.balanced`).
    """

    name: ClassVar[str] = "rebase"
    when: ClassVar[str] = "As beam search, but with a reward model whose best guess is not always right."

    temperature: Annotated[
        float, Field(gt=0.0, le=100.0, description="of the softmax over scores: lower trusts the scores more (T)")
    ] = 0.2

    async def allot(self, run: Run, paths: list[Path], width: int) -> list[Path]:
        return repeated(paths, balanced(values(paths), width, self.temperature, run.rng))
