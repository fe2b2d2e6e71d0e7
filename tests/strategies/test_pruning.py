from __future__ import annotations

import asyncio
import itertools
import random
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evals.runs.search_speed import case, tree
from strategies.pruning import Program, climbed, greedy, posed, solved, survivors
from tts.compute import value_of
from tts.errors import UsageError

SMALL = st.builds(
    lambda leaves, kinds, seed: small(leaves, kinds, random.Random(seed)),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
Small = tuple[list[float], list[list[int]], list[int], list[float]]

FORK = [[0, 1, 2], [0, 1, 3], [0, 4, 5]]
"""Two leaves that share two nodes, and one that shares the root only."""


def small(leaves: int, kinds: int, rng: random.Random) -> Small:
    """Weights, paths, clusters and sizes."""
    paths = tree(leaves, rng)
    weights = [float(rng.randrange(4)) for _ in range(leaves)]
    nodes = 1 + max(node for path in paths for node in path)
    return weights, paths, [rng.randrange(kinds) for _ in range(leaves)], [rng.uniform(0.0, 9.0) for _ in range(nodes)]


def best(program: Program) -> float:
    """By trying every set of leaves."""
    leaves = range(len(program.worth))
    return max(program.value(kept) for size in leaves for kept in itertools.combinations(leaves, size + 1))


@settings(max_examples=150, deadline=None)
@given(SMALL, st.sampled_from([0.0, 0.3, 1.0, 2.0, 5.0]), st.sampled_from([0.0, 0.5, 1.5]), st.booleans())
def test_no_set_of_leaves_is_better(tree: Small, cost: float, diversity: float, sized: bool) -> None:
    weights, paths, clusters, sizes = tree
    arguments = (weights, paths, clusters, cost, diversity, sizes if sized else None)
    kept, program = survivors(*arguments), posed(*arguments)
    assert kept == sorted(set(kept))
    assert kept
    assert program.value(kept) == pytest.approx(best(program), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(SMALL, st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.0, 1.0]))
def test_the_value_is_the_papers_formula(tree: Small, cost: float, diversity: float) -> None:
    weights, paths, clusters, _ = tree
    kept = [leaf for leaf in range(len(weights)) if leaf % 2 == 0]
    nodes = {node for leaf in kept for node in paths[leaf]}
    assert posed(weights, paths, clusters, cost, diversity).value(kept) == pytest.approx(
        sum(weights[leaf] for leaf in kept) / (sum(weights) or 1.0)
        - cost * len(nodes) / len({node for path in paths for node in path})
        + diversity * len({clusters[leaf] for leaf in kept}) / len(set(clusters))
    )


@settings(max_examples=50, deadline=None)
@given(SMALL)
def test_where_nothing_costs_and_nothing_is_covered_every_leaf_of_some_weight_stays(tree: Small) -> None:
    weights, paths, clusters, _ = tree
    assume(any(weights))
    weighty = [leaf for leaf, weight in enumerate(weights) if weight]
    assert survivors(weights, paths, clusters, 0.0, 0.0) == weighty


@settings(max_examples=50, deadline=None)
@given(SMALL)
def test_where_nodes_are_dear_a_single_leaf_stays(tree: Small) -> None:
    weights, paths, clusters, _ = tree
    (kept,) = survivors(weights, paths, clusters, 1e3, 1.0)
    assert weights[kept] == max(weights)


def test_leaves_that_share_nodes_are_kept_together() -> None:
    """By hand, at a price of 1/6 a node: the third leaf brings 0.3 for two nodes, one of the first two 0.35 for one."""
    assert survivors([0.35, 0.35, 0.3], FORK, [0, 0, 0], 1.0, 0.0) == [0, 1]
    assert survivors([0.3, 0.3, 0.4], FORK, [0, 0, 0], 1.0, 0.0) == [0, 1, 2]


def test_another_meaning_can_save_a_leaf() -> None:
    assert survivors([0.35, 0.35, 0.3], FORK, [0, 0, 1], 1.0, 0.0) == [0, 1]
    assert survivors([0.35, 0.35, 0.3], FORK, [0, 0, 1], 1.0, 0.1) == [0, 1, 2]
    assert survivors([0.35, 0.35, 0.3], FORK, [0, 0, 0], 1.0, 0.1) == [0, 1]


def test_sizes_make_a_long_step_dear_and_a_short_one_cheap() -> None:
    weights, clusters = [0.35, 0.35, 0.3], [0, 0, 0]
    assert survivors(weights, FORK, clusters, 1.0, 0.0, [1.0, 0.5, 0.5, 0.5, 0.1, 0.1]) == [0, 1, 2]
    assert survivors(weights, FORK, clusters, 1.0, 0.0, [1.0, 1.0, 1.0, 9.0, 1.0, 1.0]) == [0, 2]


def test_a_tree_without_weight_still_keeps_a_leaf_and_one_without_leaves_none() -> None:
    assert len(survivors([0.0, 0.0, 0.0], FORK, [0, 1, 2], 1.0, 0.0)) == 1
    assert survivors([], [], [], 1.0, 1.0) == []


@pytest.mark.parametrize("paths", [[[0, 1], [0, 1]], [[0, 1], [0, 1, 2]]])
def test_a_leaf_that_is_also_someone_elses_node_is_a_mistake(paths: list[list[int]]) -> None:
    with pytest.raises(AssertionError, match="nobody else's"):
        survivors([1.0, 1.0], paths, [0, 0], 1.0, 0.0)


@pytest.mark.parametrize("leaves", [16, 64])
@pytest.mark.parametrize(("cost", "diversity"), [(0.5, 0.0), (1.0, 0.0), (0.5, 1.5), (1.0, 1.5), (2.0, 1.5)])
def test_the_greedy_search_stays_within_a_tenth_of_the_best(leaves: int, cost: float, diversity: float) -> None:
    """At such prices; where nodes cost so much that the best is near 0, a share of it says nothing."""
    for seed in range(12):
        each = case(leaves, random.Random(seed))
        program = posed(*each, cost, diversity)
        assert program.value(greedy(program)) >= 0.9 * program.value(survivors(*each, cost, diversity))


def test_only_downwards_are_leaves_found_that_pay_for_a_chain_together() -> None:
    weights, paths = [0.2, 0.4, 0.4], [[0, 1], [0, 2, 3, 4], [0, 2, 3, 5]]
    program = posed(weights, paths, [0, 0, 0], 1.0, 0.0)  # 1/6 a node: either of the two brings 0.4 for 0.5
    assert climbed(program, []) == [0]
    assert climbed(program, range(3)) == greedy(program) == [0, 1, 2]


def test_without_a_solution_within_the_limit_of_nodes_the_greedy_one_is_taken() -> None:
    each = case(64, random.Random(3))
    program = posed(*each, 2.0, 1.5)
    assert solved(program, node_limit=0) == ([], False)
    assert survivors(*each, 2.0, 1.5, node_limit=0) == greedy(program) != survivors(*each, 2.0, 1.5)


def test_it_comes_back_from_another_process_as_it_went() -> None:
    arguments = ([0.35, 0.35, 0.3], FORK, [0, 0, 1], 1.0, 0.1)
    assert asyncio.run(value_of(survivors, arguments, 60.0)) == (survivors(*arguments), False)


def test_without_its_libraries_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UsageError, match=r"scipy\.optimize; pip install 'test-time-scaling\[search\]'"):
        survivors([1.0], [[0]], [0], 1.0, 0.0)
