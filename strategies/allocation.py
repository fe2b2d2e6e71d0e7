"""How many continuations each path gets: by a balanced share, or by chance."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

ROUNDING = 1e-9
"""A share this close above a whole number is that number: 16 x 1/16 must not be given two."""


def balanced(scores: Sequence[float], total: int, temperature: float, rng: random.Random) -> list[int]:
    """A `total` of continuations shared out by the softmax of the scores (REBASE: Wu et al. 2025, "Inference scaling
    laws", reward balanced search, and its public code).

    From the highest score down, each gets its share of what is left, rounded up, so the counts add up to `total` and
    the lowest scores may get none. They come in the order of `scores`, which are finite and at least one.

    Departure: among equal scores chance decides, not the order given, who is served first. Otherwise 16 among 20
    equals would always starve the last four.
    """
    assert scores, "nobody to share it among"
    assert temperature > 0.0, "a softmax needs a temperature"
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], rng.random()))
    shares = [math.exp((scores[i] - scores[order[0]]) / temperature) for i in order]
    # Added up from the smallest, not subtracted from the sum: so the last share is exactly all that is left.
    rests = list(accumulate(reversed(shares)))[::-1]
    counts, left = [0] * len(scores), total
    for i, share, rest in zip(order, shares, rests, strict=True):
        counts[i] = math.ceil(left * share / rest - ROUNDING) if rest else 0
        left -= counts[i]
    assert left == 0, f"{left} of {total} left over"
    return counts


def resampled(weights: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """How many of `count` copies each gets by systematic resampling: floor or ceil of count x w_i / sum(w), and that on
    average, with a single random number (Douc and Cappe 2005, "Comparison of resampling schemes for particle
    filtering"). The particle filter of Puri et al. 2025, "A probabilistic inference approach to inference-time scaling
    of LLMs using particle-based Monte Carlo methods", is what asks for it.

    Where all weights are zero they are taken as equal. In exact arithmetic, so that no rounding adds or loses a copy.

    Departure: the public code draws each copy by itself (multinomial), which only adds variance.
    """
    assert weights, "nothing to copy"
    assert min(weights) >= 0.0, "a weight is not negative"
    exact = [Fraction(weight) for weight in weights] if any(weights) else [Fraction(1)] * len(weights)
    ends = list(accumulate(exact))
    start = Fraction(rng.random())
    # Copies are taken at start, start + 1, ... of a line of length `count`, of which each weight owns a piece.
    taken = [0, *(math.ceil(count * end / ends[-1] - start) for end in ends)]
    return [after - before for before, after in pairwise(taken)]
