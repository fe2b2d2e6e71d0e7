"""Wider or deeper: where to grow a tree next, by Thompson sampling."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

ROOT = 0


@dataclass(slots=True)
class Rewards:
    """What an arm brought so far, as sums; all that a posterior needs."""

    told: int = 0
    total: float = 0.0
    squares: float = 0.0
    pending: int = 0
    """Asked for and not told yet: each counts as one more reward of 0, which adds to no sum."""

    @property
    def count(self) -> int:
        """Rewards, provisional ones among them."""
        return self.told + self.pending

    def add(self, reward: float) -> None:
        """One more reward."""
        self.told += 1
        self.total += reward
        self.squares += reward * reward


class Prior(Protocol):
    """What is believed of an arm before its first reward."""

    def draw(self, rewards: Rewards, rng: random.Random) -> float:
        """A mean reward, drawn from the posterior."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Normal rewards of unknown mean and variance, with the conjugate normal-inverse-gamma prior (Murphy 2023,
    "Probabilistic machine learning: advanced topics", section 3.4.3.3). The defaults are TreeQuest's."""

    mean: float = 0.0
    """m, the expected mean."""
    strength: float = 1.0
    """kappa: how many rewards the mean is worth."""
    freedom: float = 1.0
    """nu: how many rewards the variance is worth."""
    variance: float = 0.1
    """tau^2, the expected variance."""

    def draw(self, rewards: Rewards, rng: random.Random) -> float:
        """sigma^2 ~ inverse gamma(nu / 2, nu tau^2 / 2), then a mean ~ normal(m, sigma^2 / kappa)."""
        count, average = rewards.count, rewards.total / max(1, rewards.count)
        strength, freedom = self.strength + count, self.freedom + count
        spread = max(0.0, rewards.squares - count * average**2)
        surprise = count * self.strength / strength * (average - self.mean) ** 2
        scale = (self.freedom * self.variance + spread + surprise) / 2
        # The least positive float in place of a zero, which a gamma of a small shape may round to.
        variance = scale / max(rng.gammavariate(freedom / 2, 1.0), sys.float_info.min)
        mean = (self.strength * self.mean + rewards.total) / strength
        return rng.gauss(mean, math.sqrt(variance / strength))


@dataclass(frozen=True)
class Beta:
    """Rewards as shares of a success, with Jeffreys' prior unless told otherwise (TreeQuest's default too)."""

    successes: float = 0.5
    failures: float = 0.5

    def draw(self, rewards: Rewards, rng: random.Random) -> float:
        """A mean ~ beta(a + sum of r, b + sum of 1 - r)."""
        failures = rewards.count - rewards.total
        return rng.betavariate(self.successes + rewards.total, self.failures + failures)


@dataclass(slots=True)
class _Node:
    parent: int | None
    children: list[int] = field(default_factory=list)
    generated: Rewards = field(default_factory=Rewards)
    """GEN: of children at their birth."""
    continued: Rewards = field(default_factory=Rewards)
    """CONT: of what was born below the children."""
    itself: Rewards = field(default_factory=Rewards)
    """Of the node and of all that was born below it, by which its parent chooses among its children."""


class Tree:
    """The search tree of AB-MCTS-A (Inoue et al. 2025, "Wider or deeper? Scaling LLM inference-time compute with
    adaptive branching tree search", AB-MCTS with node aggregation, and its public code, TreeQuest).

    Nodes are numbers, the root is `ROOT`. From the root down, each node draws a mean reward for a new child (GEN) and
    one for its children taken together (CONT). GEN ends the way; CONT goes on to the child whose own draw is highest.
    A node without children always generates. A score counts for the GEN of the new node's parent, and for every node
    on the way there: for itself, and for the CONT of its parent.

    Departures: one model only, so no choice among models. And an ask counts, until it is told or forgotten, as a
    provisional reward of 0 for all that chose it, like a virtual loss (Chaslot et al. 2008, "Parallel Monte-Carlo tree
    search"): otherwise a batch of asks differs by chance alone, as it does in the public code.

    Rewards are in [0, 1]. All randomness is the caller's, so a replay grows the same tree.
    """

    def __init__(self, prior: Prior) -> None:
        self._prior = prior
        self._nodes = [_Node(parent=None)]

    def __len__(self) -> int:
        return len(self._nodes)

    def parent(self, node: int) -> int | None:
        """Whose child a node is; None for the root."""
        return self._nodes[node].parent

    def children(self, node: int) -> tuple[int, ...]:
        """The oldest first."""
        return tuple(self._nodes[node].children)

    def ask(self, rng: random.Random) -> int:
        """The node that should get a new child. Each ask is to be told or forgotten once."""
        node = ROOT
        while (child := self._choose(self._nodes[node], rng)) is not None:
            node = child
        for arm in self._arms(node):
            arm.pending += 1
        return node

    def tell(self, node: int, score: float) -> int:
        """The child that `node` was asked for, with its score; its number is returned."""
        assert 0.0 <= score <= 1.0, f"{score} is not a reward from 0 to 1"
        self.forget(node)
        for arm in self._arms(node):
            arm.add(score)
        born = _Node(parent=node)
        born.itself.add(score)
        self._nodes[node].children.append(len(self._nodes))
        self._nodes.append(born)
        return len(self._nodes) - 1

    def forget(self, node: int) -> None:
        """Nothing came of an ask: a call that was refused or failed is no reward, not even 0."""
        assert self._nodes[node].generated.pending, f"nothing was asked of node {node}"
        for arm in self._arms(node):
            arm.pending -= 1

    def _choose(self, node: _Node, rng: random.Random) -> int | None:
        """The child to go on to; None to generate a new one."""
        if not node.children or self._prior.draw(node.generated, rng) >= self._prior.draw(node.continued, rng):
            return None
        return max(node.children, key=lambda child: self._prior.draw(self._nodes[child].itself, rng))

    def _arms(self, node: int) -> Iterator[Rewards]:
        """All that had to be chosen for a child of `node` to be born."""
        yield self._nodes[node].generated
        above = self._nodes[node].parent
        while above is not None:
            yield self._nodes[node].itself
            yield self._nodes[above].continued
            node, above = above, self._nodes[above].parent
