"""What searches over steps have in common: taking a step, leaving with an answer, choosing among answers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tts.run import Run
from tts.selection import Group, ballots, best, elect, sizes, tally, unextracted, values, weighed
from tts.strategy import Strategy
from tts.types import Answer, Need, Path, Problem

PILOTS = 0.5
"""The share of the N solutions that are written before a verifier is trusted: fewer seldom agree with each other."""
VOUCHED = 0.9
"""How often, of one that agrees and one that stands alone, a trusted verifier prefers the first."""


class StepSearch(Strategy):
    """Grows solutions step by step under a verifier's eyes.

    A path leaves the tree when the model has ended it, or when it can not go on: its newest step did not end within
    `step_tokens`, or the whole of it reached `depth` steps or the sampling's `max_tokens`, which the step that reaches
    them may exceed. Whatever left is a candidate, as far as it states an answer where the model has not ended it. No
    path is copied to make up for one that is missing.

    With `fallback`, the verifier has to earn its say: a share of the N solutions is written first, without it, and
    scored where that can prove anything. Where its scores do not side with those that agree (`vouched`), the others are
    written like them, and all of them vote; else they are candidates beside what the search finds with the rest of N.
    """

    together: ClassVar[bool] = True

    n: Annotated[int, Field(ge=1, le=100_000, description="paths grown at once, and solutions wanted (N)")] = 16
    step_tokens: Annotated[int, Field(ge=1, description="longest step")] = 256
    depth: Annotated[int, Field(ge=1, description="most steps of a solution")] = 40
    select: Annotated[
        Literal["weighted", "best", "majority"],
        Field(description="what chooses the answer: votes weighted by score, the best score, or plain votes"),
    ] = "weighted"
    fallback: Annotated[
        Literal["vote"] | None,
        Field(description="what to do where the scores of some first solutions do not side with those that agree"),
    ] = None

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"scores", "continue", "votes"} if self.fallback else {"scores", "continue"})

    @abstractmethod
    def explore(self, problem: Problem, run: Run, known: Sequence[Path]) -> AsyncGenerator[Answer, None]:
        """The search itself. `known` are whole solutions that are candidates already, and not among the N."""

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        explorer, pilots = self, list[Path]()
        if self.fallback and self.n > 1:
            pilots = await run.sample([Path.of(problem)], math.ceil(PILOTS * self.n))
            explorer = self.model_copy(update={"n": self.n - len(pilots)})
            groups = await tally(problem.kind, ballots(problem.kind, pilots), run)
            if answer := plainly(groups):
                yield answer
            if tells(groups):  # else its scores would prove nothing, and reading costs
                pilots = await run.score(pilots)
                groups = await tally(problem.kind, ballots(problem.kind, pilots), run)
            if not vouched(groups):
                everyone = [*pilots, *await run.sample([Path.of(problem)], explorer.n)]
                groups = await tally(problem.kind, ballots(problem.kind, everyone), run)
                if answer := plainly(groups) or unextracted(everyone):
                    yield answer
                return
        async with aclosing(explorer.explore(problem, run, pilots)) as answers:
            async for answer in answers:
                yield answer

    async def step(self, run: Run, paths: Sequence[Path]) -> list[Path]:
        """One more step of every path, scored; a path that stands there several times goes on in as many ways."""
        return await run.score(await self.grow(run, paths))

    async def grow(self, run: Run, paths: Sequence[Path]) -> list[Path]:
        """One more step of every path."""
        most = min(self.step_tokens, run.sampling.max_tokens)
        sampling = run.sampling.model_copy(update={"max_tokens": most})
        return await run.sample(paths, sampling=sampling, until=(run.problem.step_end,))

    def goes_on(self, run: Run, path: Path) -> bool:
        return path.finish is None and path.tokens < run.sampling.max_tokens and len(path.steps) < self.depth

    async def answer(self, run: Run, ended: Sequence[Path]) -> Answer | None:
        """The best answer among the candidates; where answers of a kind cannot be counted, that of the best score."""
        kind = run.problem.kind
        cast = ballots(kind, ended)
        if self.select == "best" or not kind.votes:
            return best(kind, cast) or unextracted(ended)
        groups = await tally(kind, cast, run)
        weights = weighed(groups) if self.select == "weighted" else sizes(groups)
        return elect(groups, weights, self.select) or unextracted(ended)


class TreeSearch(StepSearch):
    """Rounds: all paths take a step, then the verifier's scores decide which of them go on, and in how many ways."""

    @abstractmethod
    async def allot(self, run: Run, paths: list[Path], width: int) -> list[Path]:
        """Which of the open paths take how many of the next `width` steps: each stands there as often."""

    async def explore(self, problem: Problem, run: Run, known: Sequence[Path]) -> AsyncGenerator[Answer, None]:
        growing, ended, width = [Path.of(problem)] * self.n, list(known), self.n
        for _ in range(self.depth):
            children = await self.step(run, growing)
            opened = [path for path in children if self.goes_on(run, path)]
            ended += [path for path in children if not self.goes_on(run, path)]
            width -= len(children) - len(opened)
            growing = await self.allot(run, opened, width) if opened and width > 0 else []
            if opened:
                await run.choose(opened, growing)
            if len(opened) < len(children) and (answer := await self.answer(run, ended)):
                yield answer
            if not growing:
                return


def plainly(groups: Sequence[Group]) -> Answer | None:
    """The answer of the largest group."""
    return elect(groups, sizes(groups), "majority, for want of trust")


def tells(groups: Sequence[Group]) -> bool:
    """Whether some agree and others stand alone."""
    return any(len(group) > 1 for group in groups) and any(len(group) == 1 for group in groups)


def vouched(groups: Sequence[Group]) -> bool:
    """Whether scores side with agreement: of a solution whose answer another one shares and one whose answer nobody
    shares, the first has the higher score in `VOUCHED` of all cases. Two that came to the same answer by chance are
    rarer than two that are right, so scores without knowledge of the matter do not (AUC 1/2). Where there is nothing
    to go by, because all agree or none do, nobody vouches for the verifier.
    """
    agreeing = values([ballot.path for group in groups if len(group) > 1 for ballot in group])
    lone = values([ballot.path for group in groups if len(group) == 1 for ballot in group])
    won = sum((one > other) + 0.5 * (one == other) for one in agreeing for other in lone)
    return tells(groups) and won >= VOUCHED * len(agreeing) * len(lone)


def ranked(paths: Sequence[Path]) -> list[Path]:
    """By falling score; equals in the order in which they came."""
    scored = zip(values(paths), paths, strict=True)
    return [path for _, path in sorted(scored, key=lambda each: -each[0])]


def distinct(paths: Sequence[Path]) -> list[Path]:
    """The first of those that say the same."""
    return list({path.text: path for path in reversed(paths)}.values())[::-1]


def spread(paths: Sequence[Path], width: int) -> list[Path]:
    """`width` continuations, the same number for each path, and one more for the first ones."""
    each, more = divmod(width, len(paths))
    return repeated(paths, [each + (i < more) for i in range(len(paths))])


def repeated(paths: Sequence[Path], counts: Sequence[int]) -> list[Path]:
    """Each path as often as its count says."""
    return [path for path, count in zip(paths, counts, strict=True) for _ in range(count)]
