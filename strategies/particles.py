"""Particle filtering: solutions grow at random, and the promising ones multiply."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar

from strategies.allocation import resampled
from strategies.tree import StepSearch, repeated
from tts.run import Run
from tts.selection import values
from tts.types import Answer, Path, Problem

SURE = 1e-6
"""Scores this close to 0 or 1 count as that close: odds are finite."""


class Particles(StepSearch):
    """N particles take a step each and are then resampled by their weights, the odds of their scores (Puri et al. 2025,
    "A probabilistic inference approach to inference-time scaling of LLMs using particle-based Monte Carlo methods",
    algorithm 1): w_i = exp(logit s_i) = s_i / (1 - s_i). Finished particles stay in the population and compete.

    Departures: systematic resampling instead of multinomial. Copies of a finished particle are no further samples, so
    every finished path is one candidate, those that died out included; the answer is chosen among them as `select`
    says. Where calls fail, the other particles are resampled to N.
    """

    name: ClassVar[str] = "particles"
    when: ClassVar[str] = "When the reward model is good on average, and wrong now and then."

    async def explore(self, problem: Problem, run: Run, known: Sequence[Path]) -> AsyncGenerator[Answer, None]:
        particles, ended = [Path.of(problem)] * self.n, {path.fingerprint: path for path in known}
        for _ in range(self.depth):
            moving = [path for path in particles if self.goes_on(run, path)]
            moved = await self.step(run, moving)
            if not moved:
                return
            fresh = {path.fingerprint: path for path in moved if not self.goes_on(run, path)}
            ended |= fresh
            population = [path for path in particles if not self.goes_on(run, path)] + moved
            particles = repeated(population, resampled(odds(population), self.n, run.rng))
            await run.choose(population, particles)
            if fresh and (answer := await self.answer(run, list(ended.values()))):
                yield answer


def odds(paths: Sequence[Path]) -> list[float]:
    """s / (1 - s) of each score."""
    bounded = (min(1.0 - SURE, max(SURE, value)) for value in values(paths))
    return [value / (1.0 - value) for value in bounded]
