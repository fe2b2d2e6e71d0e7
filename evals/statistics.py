"""The numbers under a report: all of them clustered by problem, none of them assuming a normal distribution."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import betaln
from scipy.stats import bootstrap

Array = npt.NDArray[np.float64]
RESAMPLES, LEVEL = 4_000, 0.95
SEED = 20_261_123
"""Intervals are the same whenever they are computed from the same rows."""


class Estimate(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def mean_by_problem(values: Mapping[str, Sequence[float]]) -> Estimate:
    """The mean over problems of each problem's mean over seeds, with a percentile bootstrap by problem: the seeds of
    one problem are not independent observations. Values by problem id."""
    return _bootstrapped(np.array([np.mean(values[p]) for p in sorted(values)]))


def paired_difference(ours: Mapping[str, Sequence[float]], theirs: Mapping[str, Sequence[float]]) -> Estimate:
    """Ours minus theirs, over the problems that both have, resampled as pairs."""
    shared = sorted(ours.keys() & theirs.keys())
    return _bootstrapped(np.array([np.mean(ours[p]) - np.mean(theirs[p]) for p in shared]))


def _bootstrapped(values: Array) -> Estimate:
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2 or np.ptp(values) == 0.0:
        return Estimate(mean, mean, mean)
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        batch=max(1, 4_000_000 // len(values)),
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high))


def ratio_by_problem(pairs: Sequence[tuple[float, float]]) -> Estimate:
    """The mean of the first values over the mean of the second, with a percentile bootstrap of pairs, one per
    problem."""
    array = np.asarray(pairs, dtype=float)
    means = _resampled(array)
    low, high = np.quantile(means[:, 0] / means[:, 1], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    ours, theirs = array.mean(axis=0)
    return Estimate(float(ours / theirs), float(low), float(high))


def p_value(values: Sequence[float], margin: float) -> float:
    """One-sided bootstrap test of "the mean is at most `margin`": small where the mean is clearly above it. One value
    per problem."""
    array = np.asarray(values, dtype=float)
    return (1 + int(np.sum(_resampled(array) <= margin))) / (RESAMPLES + 1)


def _resampled(array: Array) -> Array:
    """The means of bootstrap draws of problems, which are the first axis."""
    rng = np.random.default_rng(SEED)
    return np.array([array[rng.integers(0, len(array), len(array))].mean(axis=0) for _ in range(RESAMPLES)])


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P values adjusted for testing all of them (Holm 1979)."""
    adjusted, highest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(p_values) - rank)))
        adjusted[name] = highest
    return adjusted


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n samples, c of them right, hold a right one: 1 - C(n-c, k)/C(n, k), unbiased (Chen et al.
    2021, "Evaluating large language models trained on code", equation 1)."""
    assert k <= n, f"pass@{k} cannot be estimated from {n} samples"
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / j for j in range(n - c + 1, n + 1))


def majority_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int, rounds: int = 64) -> float:
    """How often a plain vote among k of the samples is right, over random subsets where 1 < k < n. Ties go to the
    answer that came first; a sample without an answer does not vote."""
    if k == 1:
        return sum(right) / len(right)
    if k >= len(answers):
        return _vote(list(range(len(answers))), answers, right)
    rng = random.Random(SEED)
    return sum(_vote(rng.sample(range(len(answers)), k), answers, right) for _ in range(rounds)) / rounds


def _vote(chosen: Sequence[int], answers: Sequence[str | None], right: Sequence[bool]) -> float:
    # All right answers are one group, however they are spelt; wrong ones are told apart by their text.
    names = ["" if right[i] else answers[i] for i in chosen]
    counted = Counter(name for name in names if name is not None)
    return float(bool(counted) and counted.most_common(1)[0][0] == "")


def regret(costs: Sequence[float], accuracies: Sequence[float]) -> float:
    """Normalised regret against always being right, up to the largest cost: one minus the area under the
    accuracy-cost curve divided by that cost (Qu et al. 2025, "Optimizing test-time compute via meta reinforcement
    fine-tuning", cumulative regret). Before the first point nothing is answered."""
    points = sorted(zip(costs, accuracies, strict=True))
    xs, ys = [0.0, *(x for x, _ in points)], [0.0, *(y for _, y in points)]
    return 1.0 - float(np.trapezoid(ys, xs)) / xs[-1] if xs[-1] else math.nan


class Saturation(NamedTuple):
    """F(N) = ceiling·(1 - (1-p)^N), its root mean square error, and the N after which one more sample adds less than
    `GAIN`; `a`, `b` and `mixed_error` of the Beta-mixed law F(N) = 1 - E[(1-p)^N]."""

    ceiling: float
    p: float
    error: float
    enough: int
    a: float
    b: float
    mixed_error: float


GAIN = 0.01


def saturation(counts: Sequence[int], coverage: Sequence[float]) -> Saturation | None:
    """Least-squares fits of the saturation law (TTSPM, Wang et al. 2025) to accuracy at N samples; None for fewer
    than three points."""
    if len(counts) < 3:
        return None
    ns, ys = np.asarray(counts, dtype=float), np.asarray(coverage, dtype=float)

    def geometric(x: Array) -> Array:
        residuals: Array = x[0] * (1.0 - (1.0 - x[1]) ** ns) - ys
        return residuals

    def mixed(x: Array) -> Array:
        a, b = np.exp(x)
        residuals: Array = 1.0 - np.exp(betaln(a, b + ns) - betaln(a, b)) - ys
        return residuals

    one = least_squares(geometric, x0=[max(0.05, float(ys.max())), 0.3], bounds=([0.0, 1e-6], [1.0, 1.0 - 1e-9]))
    two = least_squares(mixed, x0=[0.0, 0.0], bounds=(-6.0, 6.0))
    ceiling, p = (float(x) for x in one.x)
    a, b = (float(x) for x in np.exp(two.x))
    return Saturation(ceiling, p, _rms(one.fun), enough(ceiling, p, GAIN), a, b, _rms(two.fun))


def enough(ceiling: float, p: float, gain: float) -> int:
    """The smallest N at which F(N+1) - F(N) is at most `gain`."""
    if ceiling * p <= gain:
        return 0
    return math.ceil(math.log(gain / (ceiling * p)) / math.log(1.0 - p))


def _rms(residuals: Array) -> float:
    return float(np.sqrt(np.mean(residuals**2)))
