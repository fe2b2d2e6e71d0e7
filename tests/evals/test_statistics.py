from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.statistics import (
    enough,
    holm,
    majority_at_k,
    mean_by_problem,
    p_value,
    paired_difference,
    pass_at_k,
    regret,
    saturation,
)


@given(st.integers(1, 8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(itertools.combinations([i < right for i in range(n)], k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_a_vote_of_all_counts_ties_for_the_first_and_ignores_those_without_an_answer() -> None:
    assert majority_at_k(["7", "8", "8", "7"], [True, False, False, True], 4) == 1.0
    assert majority_at_k(["8", "7", "8", "7"], [False, True, False, True], 4) == 0.0
    assert majority_at_k([None, None, "7"], [False, False, True], 3) == 1.0
    assert majority_at_k([None, None], [False, False], 2) == 0.0
    assert majority_at_k(["1/2", "0.5", "8", "8"], [True, True, False, False], 4) == 1.0  # one answer in two spellings


def test_a_vote_of_some_is_an_average_over_subsets() -> None:
    answers, right = ["7", "7", "7", "8"], [True, True, True, False]
    assert majority_at_k(answers, right, 1) == sum(right) / len(right)


def test_an_interval_covers_the_truth_about_as_often_as_it_claims() -> None:
    rng = random.Random(1)
    covered = 0
    for _ in range(200):
        values = {str(i): [float(rng.random() < 0.3)] for i in range(100)}
        found = mean_by_problem(values)
        covered += found.low <= 0.3 <= found.high
    assert 180 <= covered <= 198


def test_seeds_of_one_problem_are_not_taken_for_independent_observations() -> None:
    rng = random.Random(2)
    once = {str(i): [float(rng.random() < 0.5)] for i in range(60)}
    often = {problem: values * 10 for problem, values in once.items()}
    assert mean_by_problem(often) == mean_by_problem(once)


def test_a_paired_difference_is_sharper_than_two_intervals_and_needs_both_sides() -> None:
    rng = random.Random(3)
    theirs = {str(i): [float(rng.random() < 0.5)] for i in range(300)}
    ours = {problem: [min(1.0, value[0] + (rng.random() < 0.1))] for problem, value in theirs.items()}
    found = paired_difference({**ours, "nobody else's": [1.0]}, theirs)
    assert 0.0 < found.low < found.mean < found.high < 0.12
    assert found.high - found.low < mean_by_problem(ours).high - mean_by_problem(ours).low


def test_a_certain_result_has_an_interval_of_no_width() -> None:
    assert mean_by_problem({"a": [1.0], "b": [1.0]}) == (1.0, 1.0, 1.0)
    assert mean_by_problem({"a": [0.5]}) == (0.5, 0.5, 0.5)


def test_a_p_value_is_small_only_where_the_mean_is_clearly_above_the_margin() -> None:
    values = [1.0] * 30 + [0.0] * 70
    assert p_value(values, 0.1) < 0.001
    assert p_value(values, 0.3) == pytest.approx(0.5, abs=0.1)
    assert p_value(values, 0.5) > 0.99


def test_holm_multiplies_by_how_many_are_left_and_never_goes_down() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def test_regret_is_the_area_above_the_curve() -> None:
    assert regret([1.0], [1.0]) == pytest.approx(0.5)
    assert regret([10.0, 20.0], [0.5, 0.5]) == pytest.approx(1 - (2.5 + 5) / 20)
    assert regret([20.0, 10.0], [0.5, 0.5]) == pytest.approx(1 - (2.5 + 5) / 20)


@pytest.mark.parametrize(("p", "n"), [(0.1, 22), (0.2, 14), (0.3, 10), (0.5, 6)])
def test_enough_agrees_with_the_published_check_values(p: float, n: int) -> None:
    assert enough(1.0, p, 0.01) == n
    assert enough(0.02, 0.3, 0.01) == 0


def test_saturation_finds_the_law_that_made_the_points() -> None:
    counts = [1, 2, 4, 8, 16]
    fit = saturation(counts, [0.8 * (1 - 0.7**n) for n in counts])
    assert fit is not None
    assert (fit.ceiling, fit.p) == pytest.approx((0.8, 0.3), abs=1e-3)
    assert fit.error < 1e-4
    assert saturation([1, 2], [0.1, 0.2]) is None


def test_a_mixture_of_problems_is_fitted_better_by_the_mixed_law() -> None:
    rng = random.Random(4)
    chances = [rng.betavariate(0.4, 1.2) for _ in range(5000)]
    counts = [1, 2, 4, 8, 16, 32, 64]
    fit = saturation(counts, [sum(1 - (1 - p) ** n for p in chances) / len(chances) for n in counts])
    assert fit is not None
    assert fit.mixed_error < 0.01 < fit.error
    assert (fit.a, fit.b) == pytest.approx((0.4, 1.2), rel=0.15)
