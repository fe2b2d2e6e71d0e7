from __future__ import annotations

import asyncio
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.clustering import clusters
from tts.compute import value_of
from tts.errors import UsageError

STEPS = [
    "Let x be the number of apples. Then x + 2 = 5.",
    "We factor the polynomial into (x - 1)(x - 2).",
    "let x be  the number of apples, then x + 2 = 5",
    "Let x be the number of pears. Then x + 2 = 5.",
]
TEXTS = st.lists(st.sampled_from([*STEPS, "", " ", "a", "42", "?!", "\ud800"]) | st.text(max_size=30), max_size=12)


@settings(deadline=None)
@given(TEXTS, st.floats(0.0, 1.0))
def test_labels_count_up_from_zero_and_identical_texts_share_one(texts: list[str], threshold: float) -> None:
    labels = clusters(texts, threshold)
    assert len(labels) == len(texts)
    assert list(dict.fromkeys(labels)) == list(range(len(set(labels))))
    label_of: dict[str, int] = {}
    assert all(label_of.setdefault(text, label) == label for text, label in zip(texts, labels, strict=True))


@settings(deadline=None)
@given(st.permutations(range(len(STEPS))), st.sampled_from([0.05, 0.3, 0.6]))
def test_the_order_of_the_texts_changes_the_numbers_only(order: list[int], threshold: float) -> None:
    labels = clusters(STEPS, threshold)
    shuffled = clusters([STEPS[i] for i in order], threshold)
    pairs = {(labels[i], label) for i, label in zip(order, shuffled, strict=True)}
    assert len(pairs) == len(set(labels)) == len(set(shuffled))


def test_the_nearer_texts_join_first() -> None:
    assert clusters(STEPS, 0.0) == [0, 1, 2, 3]
    assert clusters(STEPS, 0.21) == [0, 1, 0, 2]
    assert clusters(STEPS, 0.5) == [0, 1, 0, 0]
    assert clusters(STEPS, 1.0) == [0, 0, 0, 0]


def test_spaces_and_capitals_make_no_difference() -> None:
    assert clusters(["So x = 3", "so  X = 3\n", "So y = 3"], 1e-9) == [0, 0, 1]


def test_clusters_are_joined_by_their_average_distance() -> None:
    """Neighbours are 0.45 apart, pairs of them 0.78 on average. Single linkage would join all four at 0.6, complete
    linkage not even at 0.9."""
    chain = ["a b c d e f", "c d e f g h", "e f g h i j", "g h i j k l"]
    assert [len(set(clusters(chain, threshold))) for threshold in (0.4, 0.6, 0.9)] == [4, 2, 1]


def test_no_text_one_text_and_one_distinct_text() -> None:
    assert clusters([]) == []
    assert clusters(["x"]) == [0]
    assert clusters(["x", "x", "x"]) == [0, 0, 0]


def test_empty_texts_are_a_cluster_of_their_own() -> None:
    assert clusters(["", "So x = 3", "  \n", ""], 0.9) == [0, 1, 0, 0]


def test_copies_of_a_text_pull_no_average() -> None:
    """The first two texts are 0.65 from the third on average; with five copies of the first they would be 0.78."""
    texts = ["a b c d e f", "c d e f g h", "e f g h i j"]
    assert clusters(texts, 0.7) == [0, 0, 0]
    assert clusters([texts[0]] * 4 + texts, 0.7) == [0] * 7


def test_it_comes_back_from_another_process_as_it_went() -> None:
    assert asyncio.run(value_of(clusters, (STEPS, 0.21), 60.0)) == ([0, 1, 0, 2], False)


def test_without_its_libraries_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.cluster.hierarchy", None)
    with pytest.raises(UsageError, match=r"hierarchy; pip install 'test-time-scaling\[search\]'"):
        clusters(["one", "two"])
