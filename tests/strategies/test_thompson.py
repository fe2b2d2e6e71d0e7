from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.thompson import ROOT, Beta, Gaussian, Prior, Rewards, Tree

PRIORS = pytest.mark.parametrize("prior", [Gaussian(), Beta()], ids=["gaussian", "beta"])


def rewards(*told: float, pending: int = 0) -> Rewards:
    arm = Rewards(pending=pending)
    for reward in told:
        arm.add(reward)
    return arm


def draws(prior: Prior, arm: Rewards, n: int = 20_000) -> list[float]:
    rng = random.Random(0)
    return [prior.draw(arm, rng) for _ in range(n)]


def grown(prior: Prior, score: Callable[[Tree, int], float], steps: int, seed: int = 0) -> Tree:
    tree, rng = Tree(prior), random.Random(seed)
    for _ in range(steps):
        node = tree.ask(rng)
        tree.tell(node, score(tree, node))
    return tree


def put(tree: Tree, node: int, score: float) -> int:
    """A child of a certain node, however often the tree must be asked for it."""
    rng = random.Random(0)
    while (asked := tree.ask(rng)) != node:
        tree.forget(asked)
    return tree.tell(node, score)


def depth(tree: Tree, node: int) -> int:
    above = tree.parent(node)
    return 0 if above is None else 1 + depth(tree, above)


def depths(tree: Tree) -> list[int]:
    return [depth(tree, node) for node in range(len(tree))]


def test_the_gaussian_posterior_is_students_t() -> None:
    """By hand for 0.6, 0.8, 1.0 under m = 0, kappa = nu = 1, tau^2 = 0.1: kappa' = nu' = 4, m' = 2.4 / 4, and
    nu' tau'^2 = 0.1 + 0.08 + 3/4 0.8^2. The mean is then m' + sqrt(tau'^2 / kappa') t with 4 degrees of freedom, whose
    quartiles are at 0.7407 either side."""
    values = draws(Gaussian(), rewards(0.6, 0.8, 1.0))
    low, middle, high = statistics.quantiles(values, n=4)
    reach = 0.7407 * math.sqrt((0.1 + 0.08 + 0.75 * 0.64) / 4 / 4)
    assert middle == pytest.approx(0.6, abs=0.005)
    assert [low, high] == pytest.approx([0.6 - reach, 0.6 + reach], abs=0.006)


def test_before_any_reward_the_gaussian_draws_are_the_priors() -> None:
    """m + sqrt(tau^2 / kappa) t with 1 degree of freedom, whose quartiles are at 1 either side."""
    low, middle, high = statistics.quantiles(draws(Gaussian(), rewards()), n=4)
    assert [low, middle, high] == pytest.approx([-math.sqrt(0.1), 0.0, math.sqrt(0.1)], abs=0.015)


def test_the_beta_posterior_counts_shares_of_success() -> None:
    values = draws(Beta(), rewards(0.5, 1.0))
    assert statistics.fmean(values) == pytest.approx(2.0 / 3.0, abs=0.005)
    assert statistics.variance(values) == pytest.approx(2.0 * 1.0 / (9.0 * 4.0), abs=0.003)


@PRIORS
@pytest.mark.parametrize("told", [[], [0.9], [0.2, 0.7, 1.0]])
def test_a_pending_ask_counts_as_a_reward_of_nothing(prior: Prior, told: Sequence[float]) -> None:
    assert draws(prior, rewards(*told, pending=2), 50) == draws(prior, rewards(*told, 0.0, 0.0), 50)


@PRIORS
def test_a_root_without_children_is_where_all_begins(prior: Prior) -> None:
    tree, rng = Tree(prior), random.Random(0)
    assert {tree.ask(rng) for _ in range(5)} == {ROOT}
    assert [tree.tell(ROOT, 0.5) for _ in range(5)] == [1, 2, 3, 4, 5] == list(tree.children(ROOT))


@PRIORS
def test_a_score_goes_to_all_that_chose_its_node_and_to_nobody_else(prior: Prior) -> None:
    tree = Tree(prior)
    uncle, parent = put(tree, ROOT, 0.0), put(tree, ROOT, 0.0)
    child = put(tree, parent, 0.75)
    at = tree._nodes
    assert [at[parent].generated.total, at[parent].itself.total, at[ROOT].continued.total] == [0.75] * 3
    assert (at[child].itself.total, at[child].itself.count, at[parent].itself.count) == (0.75, 1, 2)
    assert (at[ROOT].generated.total, at[uncle].itself.total) == (0.0, 0.0)
    assert (at[parent].continued.count, at[child].generated.count) == (0, 0)


@given(st.lists(st.floats(0.0, 1.0), max_size=30), st.booleans(), st.integers(0, 99), st.randoms(use_true_random=False))
def test_every_arm_holds_exactly_the_scores_below_it(
    scores: list[float], gaussian: bool, seed: int, shuffle: random.Random
) -> None:
    tree, rng, asked, told = Tree(Gaussian() if gaussian else Beta()), random.Random(seed), [], {}
    for score in scores:
        asked += [tree.ask(rng) for _ in range(shuffle.randint(1, 3))]
        told[tree.tell(asked.pop(shuffle.randrange(len(asked))), score)] = score
    for node in asked:
        tree.forget(node)

    def below(node: int) -> list[float]:
        return [score for child in tree.children(node) for score in (told[child], *below(child))]

    for node, each in enumerate(tree._nodes):
        born = [told[child] for child in tree.children(node)]
        assert (each.generated.count, each.generated.pending) == (len(born), 0)
        assert each.generated.total == pytest.approx(sum(born))
        assert each.continued.count == len(below(node)) - len(born)
        assert each.continued.total == pytest.approx(sum(below(node)) - sum(born))
        if node != ROOT:
            assert each.itself.count == 1 + len(below(node))
            assert each.itself.squares == pytest.approx(told[node] ** 2 + sum(score**2 for score in below(node)))


@PRIORS
def test_where_only_refining_helps_the_tree_grows_deep_and_where_it_harms_wide(prior: Prior) -> None:
    def refining(tree: Tree, node: int) -> float:
        return min(1.0, 0.1 + 0.2 * depth(tree, node))

    def starting(tree: Tree, node: int) -> float:
        return 0.9 if node == ROOT else 0.1

    deep = [max(depths(grown(prior, refining, 60, seed))) for seed in range(10)]
    wide = [len(grown(prior, starting, 60, seed).children(ROOT)) / 60 for seed in range(10)]
    assert statistics.fmean(deep) > 4
    assert statistics.fmean(wide) > 0.75


@PRIORS
def test_the_better_of_two_children_is_gone_on_with(prior: Prior) -> None:
    tree, rng, visits = Tree(prior), random.Random(0), [0, 0, 0]
    put(tree, ROOT, 0.9)
    put(tree, ROOT, 0.1)
    for _ in range(400):
        node = tree.ask(rng)
        visits[node] += 1
        tree.forget(node)
    assert visits[1] > 1.5 * visits[2]


@PRIORS
def test_a_batch_of_asks_spreads_over_more_nodes_than_asks_that_nobody_remembers(prior: Prior) -> None:
    def spread(remembered: bool, seed: int) -> int:
        tree, rng = grown(prior, lambda tree, node: 0.9 if node == 3 else 0.2, 20, seed), random.Random(seed)
        asked = set()
        for _ in range(16):
            node = tree.ask(rng)
            asked.add(node)
            if not remembered:
                tree.forget(node)
        return len(asked)

    remembered = statistics.fmean(spread(True, seed) for seed in range(60))
    forgotten = statistics.fmean(spread(False, seed) for seed in range(60))
    assert remembered > forgotten + 0.5


@PRIORS
def test_asks_that_came_to_nothing_leave_no_trace(prior: Prior) -> None:
    tree, twin = (grown(prior, lambda tree, node: 0.5, 12) for _ in range(2))
    rng = random.Random(1)
    for node in [tree.ask(rng) for _ in range(9)]:
        tree.forget(node)
    assert tree._nodes == twin._nodes


def test_the_same_random_numbers_grow_the_same_tree() -> None:
    def shape(seed: int) -> list[int | None]:
        tree = grown(Gaussian(), lambda tree, node: 1.0 / (1 + node), 40, seed)
        return [tree.parent(node) for node in range(len(tree))]

    assert shape(5) == shape(5) != shape(6)


def test_a_score_outside_of_zero_to_one_and_one_that_nobody_asked_for_are_mistakes() -> None:
    tree = Tree(Beta())
    with pytest.raises(AssertionError, match="asked"):
        tree.tell(ROOT, 0.5)
    tree.ask(random.Random(0))
    with pytest.raises(AssertionError, match="reward"):
        tree.tell(ROOT, 1.5)
