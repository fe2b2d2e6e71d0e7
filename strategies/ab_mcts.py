"""AB-MCTS: a tree that decides by itself whether to go wider or deeper."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.thompson import ROOT, Beta, Gaussian, Tree
from strategies.tree import StepSearch
from tts.run import Run
from tts.selection import values
from tts.types import Answer, Path, Problem

PATIENCE = 2
"""Rounds in a row that may bring nothing: calls fail now and then, but a budget that is used up stays so."""


class ABMCTS(StepSearch):
    """Monte-Carlo tree search with unbounded branching, whose nodes are whole answers: at every node Thompson sampling
    chooses between a new child, which revises the node's answer (at the root: answers afresh), and going on into one of
    its children (Inoue et al. 2025, "Wider or deeper? Scaling LLM inference-time compute with adaptive branching tree
    search", AB-MCTS-A, and its public code TreeQuest), by the scores of what was born there (`strategies.thompson`).

    Departures: an answer is not revised by showing it to the model, which few models are good at. It is cut before the
    step that the verifier doubts most, and written anew from there; where nobody has judged its steps, before one by
    lot. `width` answers are written at once, each a provisional failure until told. It ends with N answers.
    """

    name: ClassVar[str] = "ab_mcts"
    when: ClassVar[str] = "When it is not known whether fresh samples or revisions help more, and the verifier is good."

    width: Annotated[int, Field(ge=1, le=10_000, description="answers written at once")] = 4
    prior: Annotated[Literal["gaussian", "beta"], Field(description="what is believed of scores")] = "gaussian"

    async def explore(self, problem: Problem, run: Run, known: Sequence[Path]) -> AsyncGenerator[Answer, None]:
        tree = Tree(Gaussian() if self.prior == "gaussian" else Beta())
        paths, barren = {ROOT: Path.of(problem)}, 0
        while len(paths) <= self.n and barren < PATIENCE:
            asked = [tree.ask(run.rng) for _ in range(min(self.width, self.n + 1 - len(paths)))]
            starts = [undoubted(paths[node], run.rng) for node in asked]
            written = await run.gather(*(partial(self._written, start) for start in starts))
            born = await run.score([path for path in written if path])
            barren = 0 if born else barren + 1
            # Among all paths, so that an answer without a score is worth what others are, not what its batch is.
            worth = iter(values([*list(paths.values())[1:], *born])[len(paths) - 1 :])
            scored = iter(born)
            for node, path in zip(asked, written, strict=True):
                if path:
                    paths[tree.tell(node, min(1.0, next(worth)))] = next(scored)
                else:
                    tree.forget(node)
            await run.choose(born, born)
            if born and (answer := await self.answer(run, [*known, *list(paths.values())[1:]])):
                yield answer

    async def _written(self, start: Path, run: Run) -> Path | None:
        """The path to its end; None where that was not granted."""
        path = start
        while self.goes_on(run, path):
            longer = await self.grow(run, [path])
            if not longer:
                return None
            (path,) = longer
        return path


def undoubted(path: Path, rng: random.Random) -> Path:
    """The steps before the one that was judged worst, the earliest of them; the empty path as it is."""
    if not path.steps:
        return path
    judged = [i for i, step in enumerate(path.steps) if step.text.strip()][: len(path.judged)]
    worst = min(judged, key=lambda i: path.judged[judged.index(i)]) if judged else rng.randrange(len(path.steps))
    kept = path.steps[:worst]
    return Path(start=path.start, steps=kept, judged=path.judged[: sum(bool(step.text.strip()) for step in kept)])
