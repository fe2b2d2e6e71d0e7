"""AB-MCTS: fresh answers and revisions."""

from __future__ import annotations

import random

import pytest

from strategies import ABMCTS
from strategies.ab_mcts import undoubted
from strategies.thompson import ROOT, Gaussian, Tree
from tests.strategies.scripted import SEEDS, ByText, asked, ended, opinion, paths_of, place, searched, wandering
from tts.answers import Exact
from tts.backends.base import Request
from tts.backends.fake import Reply
from tts.types import Path, Problem, Step


def path(*texts: str, judged: tuple[float, ...] = ()) -> Path:
    steps = tuple(Step(text=text, key=str(i)) for i, text in enumerate(texts))
    return Path(start=Problem.ask("?", Exact()).messages, steps=steps, judged=judged)


def test_the_steps_before_the_most_doubted_one_are_kept_with_their_judgements() -> None:
    kept = undoubted(path("a\n\n", "\n\n", "b\n\n", "c\n\n", "d", judged=(0.9, 0.2, 0.2)), random.Random(0))
    assert kept.text == "a\n\n\n\n"
    assert kept.judged == (0.9,)
    assert kept.finish is None


def test_where_the_first_step_is_doubted_most_all_is_written_anew() -> None:
    assert undoubted(path("a\n\n", "b", judged=(0.1,)), random.Random(0)).steps == ()


def test_an_answer_without_judgements_is_cut_by_lot() -> None:
    cuts = {len(undoubted(path("a\n\n", "b\n\n", "c"), random.Random(seed)).steps) for seed in range(20)}
    assert cuts == {0, 1, 2}


def test_the_empty_path_is_revised_into_itself() -> None:
    assert undoubted(path(), random.Random(0)) == path()


@SEEDS
@pytest.mark.parametrize("width", [1, 3, 30])
def test_n_answers_are_written_whatever_the_width(width: int, seed: int) -> None:
    _, records = searched(ABMCTS(n=12, width=width), seed=seed)
    assert len(ended(records)) == 12


def test_revisions_go_on_from_what_was_not_doubted() -> None:
    """The first step is right, whatever follows is not: in time answers are revised behind their first step."""

    class Doubting(ByText):
        def value(self, path: Path) -> float | None:
            return 0.5

    result, records = searched(ABMCTS(n=24, width=2), scorer=Doubting(), seed=3)
    children: dict[str | None, int] = {}
    for call in result.trace.calls:
        children[call.parent] = children.get(call.parent, 0) + 1
    assert max(count for parent, count in children.items() if parent is not None) > 1
    assert len(ended(records)) == 24


@SEEDS
def test_every_ask_is_told_once_or_forgotten(seed: int) -> None:
    """A second tree that is told the same names as many nodes: with one answer at a time, and calls that fail."""

    def fragile(request: Request) -> Reply | str:
        return Reply("", error="overloaded") if request.seed % 7 == 0 and place(request) else wandering(request)

    result, records = searched(ABMCTS(n=10, width=4), fragile, seed=seed)
    paths = paths_of(records)
    tree, rng = Tree(Gaussian()), random.Random(f"{seed}/")
    for selection in result.trace.selections:
        asked = [tree.ask(rng) for _ in range(min(4, 11 - len(tree)))]
        assert all(node < len(tree) for node in asked)
        for node, key in zip(asked, selection.candidates, strict=False):
            tree.tell(node, ByText().value(paths[key]) or 0.0)
        for node in asked[len(selection.candidates) :]:
            tree.forget(node)
    assert len(tree) - 1 == len(ended(records)) <= 10
    assert tree.children(ROOT)


def test_answers_that_say_the_same_are_read_once_a_round() -> None:
    def write(request: Request) -> str:
        return "the same\n\n" if len(request.path.steps) < 2 else "the same \\boxed{42}"

    result, records = searched(ABMCTS(n=12, width=4), write, **asked(lambda sheet: opinion(0.5)))
    assert len(ended(records)) == 12
    assert sum(call.role == "verifier" for call in result.trace.calls) == len(result.trace.selections) == 3


def test_an_answer_without_a_score_is_an_average_one() -> None:
    result, records = searched(ABMCTS(n=8, width=1), scorer=ByText(low=None))
    assert len(ended(records)) == 8
    assert result.answer is not None
