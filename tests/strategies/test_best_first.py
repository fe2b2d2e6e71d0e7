from __future__ import annotations

import pytest

from strategies import BestFirst
from tests.strategies.scripted import (
    SEEDS,
    ByText,
    batches,
    ended,
    growths,
    lettered,
    scores,
    searched,
)
from tts.types import Result


@SEEDS
def test_best_first_goes_on_where_the_score_is_highest_of_all_that_wait(seed: int) -> None:
    result, _ = searched(BestFirst(n=24, m=2, width=4), seed=seed)
    assert len(result.trace.selections) > 3
    for chosen, grown in growths(result):
        known = scores(chosen)
        assert list(chosen.kept) == sorted(known, key=lambda key: -known[key])[:2]
        assert grown == dict.fromkeys(chosen.kept, 2)


def test_best_first_comes_back_to_a_shorter_path_when_the_longer_ones_disappoint() -> None:
    table = {"a": 0.6, "b": 0.5, "aa": 0.4, "ab": 0.3, "ba": 0.9, "bb": 0.1}
    result, _ = searched(BestFirst(n=2, m=2, width=2), lettered("ab", 3), scorer=ByText(table=table))
    written = words(result)
    assert [written[batch[0].parent] for batch in batches(result)] == ["", "a", "b", "ba"]


def test_best_first_goes_deep_where_all_paths_are_as_good() -> None:
    result, records = searched(BestFirst(n=2, m=2, width=2), lettered("ab", 5), scorer=ByText(low=0.5, high=0.5))
    assert [len(batch) for batch in batches(result)] == [2] * 5
    assert len(ended(records)) == 2


def words(result: Result) -> dict[str | None, str]:
    """What each call's path says, where the two calls of a batch write a and b."""
    said: dict[str | None, str] = {None: ""}
    for batch in batches(result):
        said |= {call.key: said[call.parent] + letter for call, letter in zip(batch, "ab", strict=True)}
    return said


@pytest.mark.parametrize("width", [1, 2, 5])
def test_best_first_takes_one_path_where_m_is_more_than_its_width(width: int) -> None:
    result, _ = searched(BestFirst(n=8, m=6, width=width))
    assert {len(batch) for batch in batches(result)} == {6}
