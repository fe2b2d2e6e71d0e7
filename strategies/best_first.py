"""Best-first search: always go on where the score is highest."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from strategies.tree import StepSearch, distinct, ranked, repeated
from tts.run import Run
from tts.types import Answer, Path, Problem


class BestFirst(StepSearch):
    """A queue of open paths, of which the best are taken and continued in M ways each, whatever their depth (Koh et al.
    2024, "Tree search for language model agents", section 3.2), until N solutions have ended or no path is open.

    Departures: `width` / M paths are taken at once, N / M at most, so that an engine has a batch to decode. Of next
    steps that say the same one waits in the queue. A score that falls with every step, such as a product of many, keeps
    it near the root: `how=last` or `how=min` suit it better.
    """

    name: ClassVar[str] = "best_first"
    version: ClassVar[int] = 2
    when: ClassVar[str] = "When scores of short and long prefixes compare well, and steps are dear."

    m: Annotated[int, Field(ge=1, le=1_000, description="continuations of a path that is taken (M)")] = 4
    width: Annotated[int, Field(ge=1, le=10_000, description="steps taken at once")] = 16

    async def explore(self, problem: Problem, run: Run, known: Sequence[Path]) -> AsyncGenerator[Answer, None]:
        queue, ended = [Path.of(problem)], list(known)
        at_once = max(1, min(self.width, self.n) // self.m)
        for _ in range(self.n * self.depth):
            taken, queue = queue[:at_once], queue[at_once:]
            children = await self.step(run, repeated(taken, [self.m] * len(taken)))
            # The newest before their equals: the oldest first would be breadth first wherever all is right so far.
            opened = distinct([path for path in children if self.goes_on(run, path)])
            queue = ranked([*opened, *queue])
            fresh = [path for path in children if not self.goes_on(run, path)]
            ended += fresh
            if fresh and (answer := await self.answer(run, ended)):
                yield answer
            if not queue or not children or len(ended) >= self.n + len(known):
                return
            await run.choose(queue, queue[:at_once])
