"""The most that recorded samples could have brought, whoever had chosen among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Pooled(NamedTuple):
    """What is known of a problem's recorded samples: how many there are, how many of them are right, and the FLOPs of
    a first and of each further one, on average."""

    recorded: int
    right: int
    first: float
    further: float


def allocated(pools: Mapping[str, Pooled], compute: float) -> float:
    """The most coverage that so many FLOPs a problem could buy, on average over the problems: for one who knows how
    often each of them is solved, and gives every further sample where it gains most for its cost.

    The samples of a problem are bought in pieces whose gain for their cost falls: the first few together, because the
    first one pays for the prompt, then one by one. The last piece is paid in part, so no allocation of whole samples
    does better (the linear relaxation of the knapsack problem, Dantzig 1957)."""
    gains, costs = (np.concatenate(each) for each in zip(*map(_pieces, pools.values()), strict=True))
    order = np.argsort(-gains / costs, kind="stable")
    bought, paid = np.cumsum(gains[order]), np.cumsum(costs[order])
    covered = float(np.interp(compute * len(pools), [0.0, *paid], [0.0, *bought])) / len(pools)
    return round(covered, 9)  # adding up thousands of pieces leaves noise behind that


def _pieces(pool: Pooled) -> tuple[Array, Array]:
    """The gains in pass@k, and the costs, of pieces in which a problem's samples are bought."""
    place = np.arange(pool.recorded)
    missed = np.cumprod(np.maximum(0.0, pool.recorded - pool.right - place) / (pool.recorded - place))
    passed, cost = 1.0 - missed, pool.first + pool.further * place
    together = int(np.argmax(passed / cost))
    return np.diff(passed[together:], prepend=0.0), np.diff(cost[together:], prepend=0.0)
