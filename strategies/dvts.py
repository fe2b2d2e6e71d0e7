"""DVTS: diverse verifier tree search."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from strategies.tree import StepSearch, ranked
from tts.run import Run
from tts.types import Answer, Path, Problem


class DVTS(StepSearch):
    """N/M trees that know nothing of each other: in each, M next steps are written and the best of them goes on
    (Beeching et al. 2024, "Scaling test-time compute with open models", and its public code). The M paths of each
    tree's last round are its candidates, so there are N where M divides it, and fewer where not.

    Departures: no tree waits for the others, so answers come as trees end; a tree of `depth` steps ends as it stands,
    where the code has it written to its end. Where a tree is cut short, by the budget or because its best path can not
    go on, paths that had ended on its way are candidates too.
    """

    name: ClassVar[str] = "dvts"
    when: ClassVar[str] = "As beam search, for large N: the trees keep answers diverse."

    m: Annotated[int, Field(ge=1, le=1_000, description="continuations of the kept path (M)")] = 4

    async def explore(self, problem: Problem, run: Run, known: Sequence[Path]) -> AsyncGenerator[Answer, None]:
        async def tree(branch: Run) -> list[Path]:
            return await self._tree(branch, Path.of(problem))

        candidates = list(known)
        async for paths in run.arrivals(*[tree] * max(1, self.n // self.m)):
            candidates += paths
            if paths and (answer := await self.answer(run, candidates)):
                yield answer

    async def _tree(self, run: Run, root: Path) -> list[Path]:
        """The paths of the last round, that in which the best one ends; and all that ended before where none does."""
        growing = [root] * min(self.m, self.n)
        before, last = list[Path](), list[Path]()
        for _ in range(self.depth):
            children = await self.step(run, growing)
            if not children:
                break
            before, last = [*before, *(path for path in last if path.finished)], children
            best = ranked(children)[0]
            await run.choose(children, [best])
            if best.finished:
                return children
            if not self.goes_on(run, best):
                break
            growing = [best] * len(growing)
        return [*before, *last]
