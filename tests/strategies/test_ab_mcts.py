from __future__ import annotations

import random
from typing import Literal

import pytest

from strategies import ABMCTS
from strategies.thompson import ROOT, Gaussian, Tree
from tests.strategies.scripted import (
    SEEDS,
    ByText,
    batches,
    ended,
    lettered,
    paths_of,
    place,
    searched,
    wandering,
)
from tts.backends.base import Request
from tts.backends.fake import Reply
from tts.types import Call, Path


@SEEDS
@pytest.mark.parametrize("width", [1, 5])
def test_ab_mcts_grows_the_tree_that_its_tellings_alone_explain(width: int, seed: int) -> None:
    """A second tree is told the same, and asked with the same random numbers: it names the same nodes, so every ask of
    the first one was told once, or forgotten."""

    def fragile(request: Request) -> Reply | str:
        return Reply("", error="overloaded") if request.seed % 5 == 0 and place(request) else wandering(request)

    result, records = searched(ABMCTS(n=12, width=width), fragile, seed=seed)
    paths = paths_of(records)
    tree, rng, named = Tree(Gaussian()), random.Random(f"{seed}/"), dict[int, str | None]({ROOT: None})
    for batch in batches(result):
        asked = [tree.ask(rng) for _ in range(width)]
        assert [named[node] for node in asked] == [call.parent for call in batch]
        for node, call in zip(asked, batch, strict=True):
            tell(tree, node, call, paths, named)
    assert len(ended(records)) >= 12


def tell(tree: Tree, node: int, call: Call, paths: dict[str, Path], named: dict[int, str | None]) -> None:
    """What a search that keeps its books tells of a call."""
    path = paths.get(call.key)
    if path is None:
        tree.forget(node)
    else:
        named[tree.tell(node, ByText().value(path) or 0.0, ended=path.finish is not None)] = call.key


@pytest.mark.parametrize("prior", ["gaussian", "beta"])
def test_ab_mcts_is_not_drawn_into_paths_that_have_ended(prior: Literal["gaussian", "beta"]) -> None:
    """All of them score high, everything else close to nothing."""
    ends = ByText(table={f"{letter} \\boxed{{42}}": 1.0 for letter in "so"}, high=0.02)

    def write(request: Request) -> str:
        return "so \\boxed{42}" if request.seed % 4 == 0 else f"{request.seed}\n\n"

    for seed in range(8):
        _, records = searched(ABMCTS(n=40, width=1, prior=prior), write, scorer=ends, seed=seed)
        assert len(ended(records)) == 40


def test_ab_mcts_takes_a_child_without_a_score_for_an_average_one() -> None:
    """Only the first child has a score, and it is a low one: the others are worth no more."""
    result, _ = searched(ABMCTS(n=4, width=1, depth=3), lettered("a", 3), scorer=ByText(table={"a": 0.0}, low=None))
    told = [call.parent for batch in batches(result) for call in batch]
    tree, rng, named = Tree(Gaussian()), random.Random("0/"), dict[int, str | None]({ROOT: None})
    depths = {ROOT: 0}
    for batch in batches(result):
        node = tree.ask(rng)
        depth = depths[node] + 1
        born = tree.tell(node, 0.0, ended=depth == 3)
        named[born], depths[born] = batch[0].key, depth
    assert told == [named[parent] for node in named if (parent := tree.parent(node)) is not None]
