"""How the scores of a solution's steps become one: a choice for each reward model, to be made on dev."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

Aggregation = Literal["last", "min", "prod", "mean"]
AGGREGATIONS: Mapping[Aggregation, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "prod": math.prod,
    "mean": lambda scores: sum(scores) / len(scores),
}
