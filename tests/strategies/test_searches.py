from __future__ import annotations

import random
from collections import Counter

import pytest

from strategies import DVTS, ETS, Beam, Particles, Rebase
from strategies.allocation import balanced
from strategies.particles import odds
from strategies.tree import StepSearch
from tests.fakes import PROBLEM
from tests.strategies.scripted import (
    LETTERS,
    SEEDS,
    ByText,
    asks,
    batches,
    ended,
    growths,
    lettered,
    place,
    scores,
    searched,
)
from tts.backends.base import Request
from tts.backends.fake import Reply
from tts.types import Path, Score


def short_or_long(request: Request) -> str:
    """The first two of a batch end at once, the others after three steps."""
    if place(request) < 2 or len(request.path.steps) == 2:
        return "so \\boxed{42}"
    return f"{request.seed}\n\n"


@SEEDS
@pytest.mark.parametrize(("n", "m"), [(8, 4), (8, 2), (9, 4), (4, 1)])
def test_beam_keeps_the_best_n_over_m_and_continues_each_m_ways(n: int, m: int, seed: int) -> None:
    result, records = searched(Beam(n=n, m=m), seed=seed)
    over = ended(records)
    for chosen, grown in growths(result):
        known = scores(chosen)
        width = n - sum(1 for key in over if int(key.partition(".")[0]) < int(min(grown).partition(".")[0]) + 1)
        best = sorted(known, key=lambda key: -known[key])[: -(-width // m)]
        assert list(chosen.kept) == best
        assert sum(grown.values()) == min(width, m * len(best))
        assert all(grown[key] == m for key in best[:-1])


@pytest.mark.parametrize("search", [Beam(n=8), Rebase(n=8), ETS(n=8)], ids=lambda search: search.name)
def test_paths_that_ended_take_their_places_along_and_are_not_made_up_for(search: StepSearch) -> None:
    result, records = searched(search, short_or_long)
    assert result.answer is not None
    assert [len(batch) for batch in batches(result)] == [8, 6, 4]
    assert result.answer.votes[0].count == len(ended(records)) == 2 + 2 + 4


def test_a_beam_of_one_is_a_single_path_and_a_beam_without_branches_is_n_of_them() -> None:
    single, _ = searched(Beam(n=1, m=4), lettered())
    assert [len(batch) for batch in batches(single)] == [1, 1, 1]
    several, _ = searched(Beam(n=4, m=1), lettered())
    assert all(set(grown.values()) == {1} for _, grown in growths(several))


def test_a_dvts_tree_is_the_same_whatever_trees_there_are_beside_it() -> None:
    one, several = (searched(DVTS(n=n, m=4), seed=3)[1] for n in (4, 12))
    first = [ask for ask in asks(several) if ask[0].startswith("0/0/")]
    assert first == asks(one)
    trees = {ask[0][:4] for ask in asks(several)}
    assert len(trees) == 3
    assert all(parent is None or parent[:4] == key[:4] for key, _, parent in asks(several))


def test_dvts_goes_on_with_the_best_of_each_m_and_its_last_rounds_are_n_candidates() -> None:
    result, _ = searched(DVTS(n=12, m=4), lettered("abcd", 3))
    for chosen in result.trace.selections:
        known = scores(chosen)
        assert chosen.kept == (max(known, key=lambda key: known[key]),)
        assert len(chosen.candidates) == 4
    assert result.answer is not None
    assert sum(vote.count for vote in result.answer.votes) == 12
    assert {vote.answer for vote in result.answer.votes} == {"0", "1", "2", "3"}


@pytest.mark.parametrize(("n", "m", "candidates"), [(10, 4, 8), (3, 4, 3), (1, 4, 1)])
def test_dvts_has_fewer_candidates_where_m_does_not_divide_n(n: int, m: int, candidates: int) -> None:
    result, _ = searched(DVTS(n=n, m=m), lettered("abcd", 2))
    assert result.answer is not None
    assert sum(vote.count for vote in result.answer.votes) == candidates


@SEEDS
def test_rebase_shares_out_as_the_balanced_softmax_does_and_all_of_what_is_left(seed: int) -> None:
    result, records = searched(Rebase(n=12, temperature=0.3), seed=seed)
    over, left = set(ended(records)), 12
    for (chosen, grown), batch in zip(growths(result), batches(result), strict=False):
        left -= sum(call.key in over for call in batch)
        known = scores(chosen)
        counts = balanced(list(known.values()), left, 0.3, random.Random())
        assert grown == +Counter(dict(zip(known, counts, strict=True)))
        assert sum(grown.values()) == left


def test_rebase_gives_the_root_all_n() -> None:
    result, _ = searched(Rebase(n=12))
    assert len(batches(result)[0]) == 12


@SEEDS
def test_ets_without_prices_asks_exactly_what_rebase_asks(seed: int) -> None:
    flat = ByText(table=dict.fromkeys("abcdefgh", 0.5))  # equals, among which chance decides
    plain, sparing = Rebase(n=12), ETS(n=12, sharing=0.0, coverage=0.0)
    for options in ({"seed": seed}, {"seed": seed, "handler": lettered("abcdefgh", 4), "scorer": flat}):
        assert asks(searched(sparing, **options)[1]) == asks(searched(plain, **options)[1])


def test_where_sharing_is_dear_one_path_survives_each_round_of_ets() -> None:
    result, _ = searched(ETS(n=12, sharing=100.0, coverage=0.0), lettered(LETTERS[:12], 5))
    assert [len(chosen.kept) for chosen, _ in growths(result)] == [1, 1, 1, 1]
    assert all(list(grown.items()) == [(chosen.kept[0], 12)] for chosen, grown in growths(result))


@SEEDS
def test_what_ets_pruned_is_never_grown_again(seed: int) -> None:
    result, _ = searched(ETS(n=16, sharing=1.5, coverage=0.5), seed=seed)
    pruned = [set(chosen.candidates) - set(chosen.kept) for chosen in result.trace.selections]
    assert any(pruned)
    parents = {call.parent for batch in batches(result) for call in batch}
    assert not parents & set[str | None]().union(*pruned)
    assert all(set(grown) <= set(chosen.kept) for chosen, grown in growths(result))


def test_ets_gives_all_continuations_to_the_paths_that_are_kept() -> None:
    result, _ = searched(ETS(n=16, sharing=1.5, coverage=0.5), lettered(length=4))
    assert [len(batch) for batch in batches(result)] == [16, 16, 16, 16]


def scored(score: float) -> Path:
    return Path.of(PROBLEM).scored(Score(value=score, by="test"))


def test_odds_are_finite_at_both_ends_and_equal_above_one() -> None:
    assert odds([scored(0.5), scored(0.75)]) == pytest.approx([1.0, 3.0])
    assert 0.0 < odds([scored(0.0)])[0] < 1e-5
    assert 1e5 < odds([scored(1.0)])[0] == odds([scored(17.3)])[0] < 1e7


@SEEDS
def test_particles_multiply_by_the_odds_of_their_scores(seed: int) -> None:
    result, _ = searched(Particles(n=16), lettered(length=3), seed=seed, scorer=ByText(low=0.1, high=0.9))
    for chosen, grown in growths(result):
        weights = {key: score / (1 - score) for key, score in scores(chosen).items()}
        for key, weight in weights.items():
            wanted = 16 * weight / sum(weights.values())
            assert int(wanted) <= grown[key] <= int(wanted) + 1
        assert sum(grown.values()) == 16


def early(request: Request) -> str:
    """The first of the first batch ends at once, with another answer than the others."""
    if not request.path.steps and place(request) == 0:
        return "early \\boxed{1}"
    return "late \\boxed{2}" if request.path.steps else f"{place(request)}\n\n"


def test_a_finished_particle_that_is_much_better_takes_every_place_and_still_has_one_vote() -> None:
    result, records = searched(Particles(n=8), early, scorer=ByText(table={"early \\boxed{1}": 1.0}, high=0.1))
    assert [len(batch) for batch in batches(result)] == [8]
    assert result.trace.selections[0].kept == ("0.0",)
    assert result.answer is not None
    assert [(vote.answer, vote.count) for vote in result.answer.votes] == [("1", 1)]
    assert len(ended(records)) == 1


def test_a_finished_particle_competes_in_every_later_round() -> None:
    def write(request: Request) -> str:
        return early(request) if len(request.path.steps) != 1 else f"{request.seed}\n\n"

    result, _ = searched(Particles(n=8), write, scorer=ByText(low=0.5, high=0.5))
    first, second, _ = result.trace.selections
    assert "0.0" in first.kept
    assert second.candidates[0] == "0.0"
    assert len(second.candidates) == 8
    assert [len(batch) for batch in batches(result)] == [8, 7, 7]


def test_a_finished_particle_that_died_out_is_still_a_candidate() -> None:
    result, _ = searched(Particles(n=8), early, scorer=ByText(table={"early \\boxed{1}": 0.0}, low=0.4))
    assert "0.0" not in result.trace.selections[0].kept
    assert [len(batch) for batch in batches(result)] == [8, 8]
    assert result.answer is not None
    assert {vote.answer: vote.count for vote in result.answer.votes} == {"2": 8, "1": 1}


def test_a_call_that_failed_does_not_thin_out_the_particles() -> None:
    def fragile(request: Request) -> Reply | str:
        if not request.path.steps and place(request) < 3:
            return Reply("", error="overloaded")
        return lettered(length=3)(request)

    result, _ = searched(Particles(n=8), fragile)
    assert [len(batch) for batch in batches(result)] == [8, 8, 8]
