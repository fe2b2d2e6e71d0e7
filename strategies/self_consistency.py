"""Self-consistency: the answer that most samples agree on, plainly, by score, or by rank."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tts.run import Run
from tts.selection import Group, ballots, elect, sizes, tally, unextracted, weighed
from tts.strategy import Strategy
from tts.types import Answer, Need, Path, Problem


class SelfConsistency(Strategy):
    """argmax over groups g of equivalent answers of Σ_{i in g} w_i (Wang et al. 2023, "Self-consistency improves
    chain of thought reasoning", section 2), with

    * `majority`: w_i = 1;
    * `weighted`: w_i = s_i, the sample's score (Li et al. 2023, "Making language models better reasoners with
      step-aware verifier", section 3.2);
    * `borda`: w_i = (N - r_i + 1)^p, r_i being the sample's rank by score among the N that vote (Kang et al.
      2025, "Scalable best-of-N selection via self-certainty", section 4.2). p = 0 is the majority.

    Ties go to the group whose first member came first. Departure: a sample without an answer has no rank.
    """

    name: ClassVar[str] = "self_consistency"
    when: ClassVar[str] = "When answers can be compared and no verifier is better than the crowd: maths, choices."

    n: Annotated[int, Field(ge=1, le=100_000, description="samples drawn (N)")] = 16
    weights: Annotated[Literal["majority", "weighted", "borda"], Field(description="what a vote weighs")] = "majority"
    p: Annotated[float, Field(ge=0.0, le=100.0, description="exponent of the Borda weights")] = 0.5

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"votes"} if self.weights == "majority" else {"votes", "scores"})

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        paths = await run.sample([Path.of(problem)], self.n)
        if self.weights != "majority":
            paths = await run.score(paths)
        groups = await tally(problem.kind, ballots(problem.kind, paths), run)
        answer = elect(groups, self._weigh(groups), self.weights) or unextracted(paths)
        if answer is not None:
            yield answer

    def _weigh(self, groups: list[Group]) -> list[float]:
        """The weight of each group."""
        if self.weights == "majority":
            return sizes(groups)
        if self.weights == "weighted":
            return weighed(groups)
        return borda(groups, self.p)


def borda(groups: list[Group], p: float) -> list[float]:
    """Σ (N - r + 1)^p over each group's members; equal scores share the order in which they came."""
    ranked = sorted(
        ((ballot.path.score.value, g) for g, group in enumerate(groups) for ballot in group if ballot.path.score),
        key=lambda scored: -scored[0],
    )
    weights = [0.0] * len(groups)
    for rank, (_, g) in enumerate(ranked, start=1):
        weights[g] += (len(ranked) - rank + 1) ** p
    return weights
