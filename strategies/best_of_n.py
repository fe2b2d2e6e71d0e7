"""Best-of-N: independent samples, of which a verifier chooses one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, ClassVar

from pydantic import Field

from tts.run import Run
from tts.selection import ballots, best, sizes, tally, unextracted, votes
from tts.strategy import Strategy
from tts.types import Answer, Need, Path, Problem


class BestOfN(Strategy):
    """argmax over i of s_i, for N samples and their scores (Cobbe et al. 2021, "Training verifiers to solve
    math word problems", section 4.2).

    Departures: samples that hold an answer go before those that do not, and free text without a judge is
    chosen by consensus. The votes are counted too, for the reader; they do not choose.
    """

    name: ClassVar[str] = "best_of_n"
    when: ClassVar[str] = "When a verifier or judge can tell good samples from bad, or answers cannot be counted."

    n: Annotated[int, Field(ge=1, le=100_000, description="samples drawn (N)")] = 16

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"scores"})

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        paths = await run.score(await run.sample([Path.of(problem)], self.n))
        cast = ballots(problem.kind, paths)
        answer = best(problem.kind, cast) or unextracted(paths)
        if answer is None:
            return
        yield answer
        if problem.kind.votes:
            groups = await tally(problem.kind, cast, run)
            yield answer.model_copy(update={"votes": votes(groups, sizes(groups))})
