"""ETS with a model that says which steps mean the same."""

from __future__ import annotations

import pytest

from strategies import ETS
from strategies.clustering import clusters
from tests.strategies.scripted import LETTERS, SEEDS, ByText, Heard, lettered, searched
from tts.backends.fake import FakeBackend, Judge, Opinion, silent
from tts.errors import BackendError, UsageError
from tts.types import Result, Sheet

SPARING = ETS(n=12, sharing=0.5, coverage=0.3, distance=0.3)
MEANT = SPARING.model_copy(update={"model": "an encoder"})


def two_meanings(sheet: Sheet) -> Opinion:
    """The letters before e mean one thing, the others another."""
    (text,) = sheet.pieces
    return Opinion(pieces=((((1.0, 0.1) if text[0] < "e" else (0.1, 1.0)),),))


def meant(judge: Judge, strategy: ETS = MEANT, seed: int = 0) -> Result:
    readers = {"embedder": FakeBackend(silent, judge=judge)}
    return searched(strategy, lettered(LETTERS[:12], 4), scorer=ByText(low=0.5, high=0.5), readers=readers, seed=seed)[
        0
    ]


def test_vectors_decide_which_texts_are_one_cluster() -> None:
    vectors = [[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [1.0, 0.0]]
    assert clusters(["a", "b", "c", "a"], 0.05, vectors) == [0, 1, 0, 0]
    assert clusters(["a", "b", "c", "a"], 0.05) == [0, 1, 2, 0]


def test_where_a_model_says_what_steps_mean_a_path_of_each_meaning_is_kept() -> None:
    dear = MEANT.model_copy(update={"sharing": 1.2, "coverage": 2.0})
    for selection in meant(two_meanings, dear).trace.selections[:1]:
        letters = {int(key.rpartition(".")[2]) < 4 for key in selection.kept}
        assert letters == {True, False}
        assert len(selection.kept) < len(selection.candidates)


def test_every_step_that_is_said_is_read_once_a_round() -> None:
    result = meant(two_meanings)
    calls = [call.key.rpartition(".")[0] for call in result.trace.calls if call.role == "embedder"]
    assert len(set(calls)) == len(result.trace.selections) == 3
    assert max(calls.count(key) for key in set(calls)) <= 12


@SEEDS
def test_where_the_model_fails_words_have_to_do(seed: int) -> None:
    def broken(sheet: Sheet) -> Opinion:
        raise BackendError("out of memory")

    failed, plain = meant(broken, seed=seed), meant(two_meanings, SPARING, seed=seed)
    assert [each.after for each in failed.trace.selections] == [each.after for each in plain.trace.selections]
    assert failed.answer is not None
    assert plain.answer is not None
    assert failed.answer.text == plain.answer.text


def test_without_the_model_that_it_names_nothing_begins() -> None:
    with pytest.raises(UsageError, match="ets needs a model that reads"):
        searched(Heard(inner=MEANT).inner, lettered())
