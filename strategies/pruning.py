"""Which leaves of a search tree to keep: worth of their own, nodes that they share, and meanings that they cover."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise, takewhile
from typing import Any

from tts.errors import UsageError

NODE_LIMIT = 1_000
"""Nodes of branch and bound; a limit in seconds would prune differently on each machine."""
LEAST = 1e-12
"""A leaf that brings no more than this is not kept. Far above the noise of floats, so that climbing ends."""


@dataclass(frozen=True)
class Program:
    """What to maximise: sum of `worth` over the kept leaves + `bonus` for each cluster that they touch - `prices` of
    the nodes on their chains, each paid once."""

    worth: tuple[float, ...]
    """Of each leaf."""
    chains: tuple[tuple[int, ...], ...]
    """For each leaf its nodes, itself first and the root last."""
    prices: dict[int, float]
    """Of each node, leaves among them."""
    clusters: tuple[int, ...]
    """The cluster of each leaf."""
    bonus: float

    def value(self, kept: Iterable[int]) -> float:
        """What is maximised."""
        kept = list(kept)
        nodes = {node for leaf in kept for node in self.chains[leaf]}
        touched = {self.clusters[leaf] for leaf in kept}
        return (
            sum(self.worth[leaf] for leaf in kept)
            + self.bonus * len(touched)
            - sum(self.prices[node] for node in nodes)
        )


def survivors(
    weights: list[float],
    paths: list[list[int]],
    clusters: list[int],
    cost: float,
    diversity: float,
    sizes: list[float] | None = None,
    node_limit: int = NODE_LIMIT,
) -> list[int]:
    """The leaves to keep, at least one of them, in ascending order (ETS: Hooper et al. 2025, "ETS: Efficient tree
    search for inference-time scaling", and its public code): those that maximise

        sum over kept leaves i of W_i / sum(W)  -  cost |V_S| / |V_A|  +  diversity |C_S| / |C_A|

    where V_A are the nodes on all paths and C_A all clusters, V_S and C_S those of the kept leaves.

    `weights`: W, of each leaf. `paths`: for each leaf the numbers of its nodes, root first and itself last, the same
    number for the same node. `clusters`: a label for each leaf. `cost` and `diversity` have no unit. `sizes`: of each
    node by its number, for example its tokens, so that |V| is the size of the key-value cache; without it nodes are
    counted, as in the paper. All of it is plain data, and nothing is random: made for `Run.compute`.

    Departures: leaves that bring nothing are dropped, and a cost of zero costs nothing (the code pays for nodes then).
    Where the solver meets its limit of nodes, a greedy search fills in, and the better of the two is taken.
    """
    assert len(weights) == len(paths) == len(clusters), "one weight, path and cluster for each leaf"
    assert min(cost, diversity, *weights) >= 0.0, "a weight or price is not negative"
    if not weights:
        return []
    program = posed(weights, paths, clusters, cost, diversity, sizes)
    kept, optimal = solved(program, node_limit)
    tries = [climbed(program, kept)] if kept else []
    return max(tries if optimal else [*tries, greedy(program)], key=program.value)


def posed(
    weights: list[float],
    paths: list[list[int]],
    clusters: list[int],
    cost: float,
    diversity: float,
    sizes: list[float] | None = None,
) -> Program:
    """The arguments of `survivors`, as what is to be maximised."""
    inner, leaves = {node for path in paths for node in path[:-1]}, {path[-1] for path in paths}
    assert len(leaves - inner) == len(paths), "a leaf is nobody else's, neither as leaf nor as ancestor"
    size = {node: 1.0 if sizes is None else sizes[node] for node in sorted(inner | leaves)}
    all_weights, all_sizes = sum(weights) or 1.0, sum(size.values()) or 1.0
    return Program(
        worth=tuple(weight / all_weights for weight in weights),
        chains=tuple(tuple(reversed(path)) for path in paths),
        prices={node: cost * each / all_sizes for node, each in size.items()},
        clusters=tuple(clusters),
        bonus=diversity / len(set(clusters)),
    )


def solved(program: Program, node_limit: int = NODE_LIMIT) -> tuple[list[int], bool]:
    """The leaves that HiGHS keeps, none where it found no solution, and whether that is optimal.

    maximise worth x + bonus z - prices y, with y_parent >= y_child along every chain, y = x at its leaf, z_k <= sum of
    x over the leaves of cluster k, and sum of x >= 1. Links along a chain say the same as the paper's y_j >= x_i for
    each ancestor j of i, in fewer rows. Only x is declared binary: y and z then are by themselves.
    """
    try:
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ModuleNotFoundError as error:
        raise UsageError(f"pruning a tree needs {error.name}; pip install 'test-time-scaling[search]'") from error
    columns = {node: i for i, node in enumerate(program.prices)}
    covered = {cluster: i for i, cluster in enumerate(sorted(set(program.clusters)), start=len(columns))}
    leaves = [columns[chain[0]] for chain in program.chains]
    gains = np.array([-price for price in program.prices.values()] + [program.bonus] * len(covered))
    gains[leaves] += program.worth
    whole = np.zeros(len(gains))
    whole[leaves] = 1.0
    rows = _rows(program, columns, covered)
    result = milp(
        -gains,
        integrality=whole,
        bounds=Bounds(0.0, 1.0),
        constraints=LinearConstraint(_matrix(rows, len(gains)), [0.0] * (len(rows) - 1) + [1.0], np.inf),
        options={"node_limit": node_limit, "mip_rel_gap": 0.0},
    )
    kept = [] if result.x is None else [leaf for leaf, column in enumerate(leaves) if result.x[column] > 0.5]
    return kept, result.status == 0


def _rows(program: Program, columns: dict[int, int], covered: dict[int, int]) -> list[dict[int, float]]:
    """The left sides, column to factor: of the links, the clusters (all at least 0), and the one leaf (at least 1)."""
    links = sorted({link for chain in program.chains for link in pairwise(chain)})
    leaves = [columns[chain[0]] for chain in program.chains]
    touched = {cluster: {column: -1.0} for cluster, column in covered.items()}
    for leaf, cluster in zip(leaves, program.clusters, strict=True):
        touched[cluster][leaf] = 1.0
    linked = [{columns[parent]: 1.0, columns[child]: -1.0} for child, parent in links]
    return [*linked, *touched.values(), dict.fromkeys(leaves, 1.0)]


def _matrix(rows: list[dict[int, float]], width: int) -> Any:
    """The rows as scipy's sparse matrix."""
    from scipy.sparse import csr_array

    starts = [0, *accumulate(map(len, rows))]
    factors = [factor for row in rows for factor in row.values()]
    return csr_array((factors, [column for row in rows for column in row], starts), shape=(len(rows), width))


def greedy(program: Program) -> list[int]:
    """The better of two climbs, from no leaf upwards and from all of them downwards. No guarantee, but no solver.

    Upwards it misses leaves that pay for a chain only together; downwards it finds them.
    """
    return max(climbed(program, []), climbed(program, range(len(program.worth))), key=program.value)


def climbed(program: Program, start: Iterable[int]) -> list[int]:
    """Leaves added or dropped one by one, always the one that helps most, until none does; sorted, at least one."""
    kept = _Kept(program, start)
    while (leaf := kept.move()) is not None:
        kept.flip(leaf)
    return sorted(kept.leaves)


class _Kept:
    """Some leaves, how many of them use each node, and how many lie in each cluster."""

    def __init__(self, program: Program, leaves: Iterable[int]) -> None:
        self.leaves: set[int] = set()
        self._program = program
        self._users = dict.fromkeys(program.prices, 0)
        self._members = dict.fromkeys(program.clusters, 0)
        for leaf in leaves:
            self.flip(leaf)

    def flip(self, leaf: int) -> None:
        """Add a leaf that is out, drop one that is in."""
        step = -1 if leaf in self.leaves else 1
        self.leaves ^= {leaf}
        self._members[self._program.clusters[leaf]] += step
        for node in self._program.chains[leaf]:
            self._users[node] += step

    def move(self) -> int | None:
        """The leaf that is best flipped; None where each would do harm."""
        leaves = range(len(self._program.worth))
        if not self.leaves:
            return max(leaves, key=self._marginal)
        best = max(leaves, key=self._help)
        return best if self._help(best) > 0.0 else None

    def _help(self, leaf: int) -> float:
        """What flipping it would bring."""
        if leaf not in self.leaves:
            return self._marginal(leaf) - LEAST
        return LEAST - self._marginal(leaf) if len(self.leaves) > 1 else 0.0

    def _marginal(self, leaf: int) -> float:
        """What a leaf brings to the others that are kept, itself kept or not."""
        program, itself = self._program, int(leaf in self.leaves)
        new = self._members[program.clusters[leaf]] == itself
        # Whoever shares a node shares all above it.
        unshared = takewhile(lambda node: self._users[node] == itself, program.chains[leaf])
        return program.worth[leaf] + program.bonus * new - sum(program.prices[node] for node in unshared)
