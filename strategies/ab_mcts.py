"""AB-MCTS: a tree that decides by itself whether to go wider or deeper."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.thompson import ROOT, Beta, Gaussian, Tree
from strategies.tree import StepSearch, values
from tts.run import Run
from tts.types import Answer, Path, Problem


class ABMCTS(StepSearch):
    """Monte-Carlo tree search with unbounded branching: at every node Thompson sampling chooses between a new child and
    going on into one of its children (Inoue et al. 2025, "Wider or deeper? Scaling LLM inference-time compute with
    adaptive branching tree search", section 3, AB-MCTS-A, and its public code TreeQuest), by the scores of what was
    born there (`strategies.thompson`).

    Departures: a node is a prefix and its children are next steps, where the paper's nodes are whole answers and
    children are revisions of them; and `width` nodes are asked for at once, each a provisional failure until told.
    """

    name: ClassVar[str] = "ab_mcts"
    when: ClassVar[str] = "When it is not known whether breadth or depth helps, and the verifier is good."

    width: Annotated[int, Field(ge=1, le=10_000, description="steps taken at once")] = 8
    prior: Annotated[Literal["gaussian", "beta"], Field(description="what is believed of scores")] = "gaussian"

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        tree = Tree(Gaussian() if self.prior == "gaussian" else Beta())
        paths, ended = {ROOT: Path.of(problem)}, list[Path]()
        for _ in range(self.n * self.depth):
            asked = [tree.ask(run.rng) for _ in range(self.width)]
            children = await self.step(run, [paths[node] for node in asked])
            if not children:
                return
            waiting = list(asked)
            # Among all paths, so that a child without a score is worth what others are, not what its batch is.
            worth = values([*paths.values(), *children])[len(paths) :]
            for child, value in zip(children, worth, strict=True):
                parent = next(node for node in waiting if paths[node].steps == child.steps[:-1])
                waiting.remove(parent)
                paths[tree.tell(parent, min(1.0, value), ended=not self.goes_on(run, child))] = child
            for node in waiting:
                tree.forget(node)
            fresh = [path for path in children if not self.goes_on(run, path)]
            ended += fresh
            if fresh and (answer := await self.answer(run, ended)):
                yield answer
            if len(ended) >= self.n:
                return
