from __future__ import annotations

import math
import random
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from strategies.allocation import balanced, resampled

SCORES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40)
WEIGHTS = st.lists(st.floats(0.0, 1e6, allow_subnormal=False), min_size=1, max_size=40)
SEEDS = st.integers(0, 2**32)


@given(SCORES, st.integers(0, 300), st.floats(1e-6, 100.0), SEEDS)
@example([0.0, 1.0], 16, 1e-6, 0)  # the lower share is zero as a float
@example([0.5] * 3, 3, 0.2, 0)  # thirds
@example([0.3] * 7, 49, 0.1, 0)
def test_balanced_counts_add_up_and_none_is_negative(
    scores: list[float], total: int, temperature: float, seed: int
) -> None:
    counts = balanced(scores, total, temperature, random.Random(seed))
    assert len(counts) == len(scores)
    assert sum(counts) == total
    assert min(counts) >= 0


@given(SCORES, st.integers(0, 300), st.floats(0.05, 10.0), SEEDS)
def test_a_higher_score_never_gets_fewer(scores: list[float], total: int, temperature: float, seed: int) -> None:
    counts = balanced(scores, total, temperature, random.Random(seed))
    ranked = sorted(zip(scores, counts, strict=True))
    assert all(lower <= higher for (low, lower), (high, higher) in pairwise(ranked) if high > low + 1e-9)


@given(st.permutations(range(12)), SEEDS)
def test_different_scores_get_the_same_in_any_order(order: list[int], seed: int) -> None:
    scores = [0.08 * i for i in range(12)]
    counts = balanced(scores, 40, 0.2, random.Random(0))
    shuffled = balanced([scores[i] for i in order], 40, 0.2, random.Random(seed))
    assert shuffled == [counts[i] for i in order]


def test_counts_follow_the_softmax_from_the_top_down() -> None:
    """By hand: shares 4:2:1:1 of 9, so ceil(4.5) = 5; then 2/4 of 4; 1/2 of 2; 1/1 of 1."""
    scores = [math.log(1), math.log(4), math.log(2), math.log(1)]
    assert balanced(scores, 9, 1.0, random.Random(0)) == [1, 5, 2, 1]
    assert balanced(scores, 9, 1e-3, random.Random(0)) == [0, 9, 0, 0]


@pytest.mark.parametrize("copies", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("paths", [1, 3, 6, 7, 49, 256])
def test_equals_get_exactly_the_same_where_that_is_possible(paths: int, copies: int) -> None:
    assert balanced([0.7] * paths, paths * copies, 0.2, random.Random(0)) == [copies] * paths


def test_sixteen_among_twenty_equals_are_sixteen_ones_and_chance_says_whose() -> None:
    served = [0] * 20
    for seed in range(400):
        counts = balanced([0.5] * 20, 16, 0.2, random.Random(seed))
        assert sorted(counts) == [0] * 4 + [1] * 16
        served = [one + other for one, other in zip(served, counts, strict=True)]
    assert all(abs(times / 400 - 0.8) < 0.08 for times in served)  # four standard errors


@given(WEIGHTS, st.integers(0, 200), SEEDS)
@example([0.1] * 3, 3, 0)
@example([1e-300, 1.0], 5, 0)
def test_resampled_counts_are_the_floor_or_ceiling_of_each_share(weights: list[float], count: int, seed: int) -> None:
    counts = resampled(weights, count, random.Random(seed))
    assert sum(counts) == count
    shares = [Fraction(weight) for weight in weights] if any(weights) else [Fraction(1)] * len(weights)
    for share, copies in zip(shares, counts, strict=True):
        wanted = count * share / sum(shares)
        assert math.floor(wanted) <= copies <= math.ceil(wanted)


def test_resampling_is_unbiased() -> None:
    weights, rounds, rng = [0.05, 0.5, 0.15, 0.3], 4_000, random.Random(7)
    drawn = [resampled(weights, 5, rng) for _ in range(rounds)]
    means = [sum(column) / rounds for column in zip(*drawn, strict=True)]
    assert means == pytest.approx([5 * weight for weight in weights], abs=0.04)


def test_no_weight_at_all_means_equal_weights() -> None:
    assert resampled([0.0, 0.0, 0.0], 6, random.Random(0)) == [2, 2, 2]
    assert resampled([0.0, 2.0, 0.0], 6, random.Random(0)) == [0, 6, 0]


def test_no_copy_is_lost_to_rounding() -> None:
    """In floats the first of six tenths is a little more than a sixth of them all, and the fifth a little less."""

    class Zero(random.Random):
        def random(self) -> float:
            return 0.0

    assert resampled([0.1] * 6, 6, Zero()) == [1] * 6


def test_resampling_takes_one_random_number() -> None:
    one, other = random.Random(3), random.Random(3)
    resampled([0.2] * 9, 30, one)
    other.random()
    assert one.getstate() == other.getstate()
