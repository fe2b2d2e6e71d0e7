"""ETS: efficient tree search, which prunes for a small KV cache before it allocates."""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, ClassVar

from pydantic import Field

from strategies.allocation import balanced
from strategies.clustering import clusters
from strategies.pruning import survivors
from strategies.rebase import Rebase
from strategies.tree import distinct
from tts.run import Run
from tts.selection import values
from tts.types import Path, Problem, Role, Sheet


class ETS(Rebase):
    """REBASE among those paths that are worth their place in the KV cache (Hooper et al. 2025, "ETS: efficient tree
    search for inference-time scaling", section 4, and its public code). Before each allocation the paths S are kept
    that maximise

        sum of W_i over S / sum of W - sharing |V_S| / |V_A| + coverage |C_S| / |C_A|,

    W being REBASE's counts, V the nodes of the tree behind some paths, C the clusters of what their newest steps say
    (lambda_b and lambda_d). All N_rem continuations then go to those that are kept.

    Departures: paths that say the same are one leaf, with the counts of all of them, kept or not together. Newest
    steps are clustered by their words (`strategies.clustering`) where no `model` is named; its reading is billed like
    any other, and where it fails words have to do. Node costs can be counted in tokens, which is what the cache holds;
    where neither term weighs anything, nothing is pruned and all is REBASE.
    """

    name: ClassVar[str] = "ets"
    version: ClassVar[int] = 2
    when: ClassVar[str] = "As REBASE, where the KV cache limits how many paths are decoded at once."

    sharing: Annotated[float, Field(ge=0.0, le=100.0, description="weight of what sharing saves (lambda_b)")] = 1.0
    coverage: Annotated[float, Field(ge=0.0, le=100.0, description="weight of saying different things (lambda_d)")] = (
        1.0
    )
    distance: Annotated[
        float, Field(ge=0.0, le=1.0, description="cosine distance up to which two steps say the same")
    ] = 0.05
    per_token: Annotated[bool, Field(description="count a node's tokens instead of nodes")] = False
    model: Annotated[
        str,
        Field(description="sentence encoder that says which steps mean the same, as local:DIR"),
    ] = ""

    @property
    def reads(self) -> Role | None:
        return "embedder" if self.model else None

    def trial(self, problem: Problem) -> Sheet | None:
        return Sheet(before="", pieces=("1",)) if self.model else None

    async def allot(self, run: Run, paths: list[Path], width: int) -> list[Path]:
        if len(paths) > 1 and (self.sharing or self.coverage):
            paths = await self._pruned(run, paths, width)
        return await super().allot(run, paths, width)

    async def _pruned(self, run: Run, paths: list[Path], width: int) -> list[Path]:
        counts = balanced(values(paths), width, self.temperature, run.rng)
        weights: dict[str, float] = {}
        for path, count in zip(paths, counts, strict=True):
            weights[path.text] = weights.get(path.text, 0.0) + count
        leaves = distinct(paths)
        nodes, sizes = numbered(leaves)
        texts = [path.steps[-1].text for path in leaves]
        groups = await run.compute(clusters, texts, self.distance, await self._meanings(run, texts))
        kept = await run.compute(
            survivors,
            [weights[path.text] for path in leaves],
            nodes,
            groups or list(range(len(leaves))),
            self.sharing,
            self.coverage,
            sizes if self.per_token else None,
        )
        survived = {leaves[i].text for i in kept} if kept else {text for text, weight in weights.items() if weight}
        return [path for path in paths if path.text in survived]

    async def _meanings(self, run: Run, texts: list[str]) -> list[list[float]] | None:
        """A vector for each text; None without a model, and where it left one out."""
        if self.reads is None:
            return None
        read = await run.read([Sheet(before="", pieces=(text,)) for text in texts], model=self.reads)
        vectors = [list(each.pieces[0][0]) for each in read if each and each.pieces]
        return vectors if len(vectors) == len(texts) else None


def numbered(paths: list[Path]) -> tuple[list[list[int]], list[float]]:
    """The nodes behind each path, the oldest first, and each node's tokens: beginnings that paths share have one
    number, whoever wrote them."""
    numbers: dict[tuple[int, str], int] = {}
    sizes: list[float] = []
    nodes = []
    for path in paths:
        beginnings = list(enumerate(accumulate(step.text for step in path.steps)))
        for beginning, step in zip(beginnings, path.steps, strict=True):
            if numbers.setdefault(beginning, len(sizes)) == len(sizes):
                sizes.append(float(step.tokens))
        nodes.append([numbers[beginning] for beginning in beginnings])
    return nodes, sizes
