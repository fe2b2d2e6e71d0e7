"""How long it takes to prune a search tree, and how far from the best the greedy search would be, on one core.

    python -m evals.runs.search_speed

Target: 20 ms for 256 leaves, for the whole of `strategies.pruning.survivors` after its imports, without the way to
another process and back. The trees are synthetic.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from itertools import count
from typing import NamedTuple

from evals.runs.door import additions
from evals.script import Script
from strategies.allocation import balanced
from strategies.pruning import greedy, posed, survivors

LEAVES, TARGET = (16, 64, 256), 0.02
ROUNDS, TEMPERATURE = 20, 0.2
PARENTS = 1.3
"""How many parents there are to choose from, for each node that chooses; gives 256 leaves about 590 ancestors."""
SETTINGS = ((1.0, 0.0), (1.0, 1.5), (2.0, 1.5))
"""Costs of nodes and worths of diversity; the second is near what the public code of ETS ships with."""


class Case(NamedTuple):
    """A tree to prune, as `survivors` wants it."""

    weights: list[float]
    paths: list[list[int]]
    clusters: list[int]


def case(leaves: int, rng: random.Random) -> Case:
    """A tree of random shape with the counts of balanced search, and a cluster for every four leaves."""
    counts = balanced([rng.random() for _ in range(leaves)], leaves, TEMPERATURE, rng)
    clusters = [rng.randrange(leaves // 4) for _ in range(leaves)]
    return Case([float(count) for count in counts], tree(leaves, rng), clusters)


def tree(leaves: int, rng: random.Random) -> list[list[int]]:
    """The path of each leaf from the root. From the leaves up, nodes pick their parents by chance until one is left."""
    paths = [[leaf] for leaf in range(leaves)]
    families, numbers = paths, count(leaves)
    while len(families) > 1:
        united: dict[int, list[int]] = {}
        for family in families:
            united.setdefault(rng.randrange(int(PARENTS * len(families))), []).extend(family)
        families = list(united.values())
        for number, family in zip(numbers, families, strict=False):
            for leaf in family:
                paths[leaf].insert(0, number)
    return paths


def main() -> None:
    """Print each figure beside its target."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"this machine: {additions():.2f} s for ten million additions in a Python loop")
    survivors(*case(LEAVES[0], random.Random(0)), *SETTINGS[0])  # imports
    for leaves in LEAVES:
        for cost, diversity in SETTINGS:
            report(leaves, cost, diversity)


def report(leaves: int, cost: float, diversity: float) -> None:
    """Time and quality over some trees of one size."""
    rng, times, behind, ancestors = random.Random(leaves), [], [], []
    for _ in range(ROUNDS):
        each = case(leaves, rng)
        began = time.perf_counter()
        kept = survivors(*each, cost, diversity)
        times.append(time.perf_counter() - began)
        program = posed(*each, cost, diversity)
        best = program.value(kept)
        behind.append((best - program.value(greedy(program))) / abs(best))
        ancestors.append(len(program.prices) - leaves)
    against = f"; target {1e3 * TARGET:g} ms, ratio {TARGET / statistics.median(times):.2f}" if leaves == 256 else ""
    print(
        f"{leaves} leaves, {min(ancestors)} to {max(ancestors)} ancestors, cost {cost:g}, diversity {diversity:g}: "
        f"median {1e3 * statistics.median(times):.1f} ms, max {1e3 * max(times):.1f} ms of {ROUNDS}{against}; "
        f"greedy behind by {statistics.median(behind):.1%}, at most {max(behind):.1%}",
        flush=True,
    )


if __name__ == "__main__":
    Script(__doc__).run(main)
