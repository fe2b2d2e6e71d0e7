"""How much of a search a KV cache has to hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import ETS, Beam, Particles, Rebase
from strategies.tree import StepSearch
from tests.fakes import PROBLEM
from tests.strategies.scripted import lettered, searched
from tts.backends.fake import FakeBackend
from tts.journal import Held
from tts.trace import Resident
from tts.types import NOTHING, Completion, Path, Usage

PROMPT = 10
Token = tuple[str, ...]
"""A token by all that stands before it: two are one in the cache where both are the same."""


@dataclass(frozen=True)
class Made:
    """A call that wrote `tokens` tokens of a text after those of another call, or after the prompt `start`."""

    key: str
    text: str
    tokens: int
    parent: Made | None = None
    start: str = "question"

    @property
    def pieces(self) -> tuple[tuple[str, int], ...]:
        before = self.parent.pieces if self.parent else ((self.start, PROMPT),)
        return (*before, (self.text, self.tokens))

    @property
    def before(self) -> set[Token]:
        return tokens_of(self.pieces[:-1])

    @property
    def resident(self) -> set[Token]:
        return tokens_of(self.pieces)


def tokens_of(pieces: Iterable[tuple[str, int]]) -> set[Token]:
    found, path = set[Token](), Token()
    for text, count in pieces:
        path = (*path, text)
        found |= {(*path, str(i)) for i in range(count)}
    return found


def resident_of(calls: Iterable[Made]) -> Resident:
    resident = Resident()
    for call in calls:
        held = Held(
            key=call.key,
            role="policy",
            id=call.key,
            request="",
            start=call.start,
            parent=call.parent.key if call.parent else None,
            forced="",
            granted=call.tokens,
            most=NOTHING,
            at=0.0,
        )
        usage = Usage.of(prompt=len(call.before), cached=0, completion=call.tokens, seconds=0.0)
        written = Completion(
            text=call.text, token_ids=None, logprob=None, self_certainty=None, finish="until", usage=usage
        )
        resident.add(held, (written,))
    return resident


A, B = Made("0.0", "a", 3), Made("0.1", "b", 2)
AA, AB, BA = Made("1.0", "aa", 4, A), Made("1.1", "ab", 1, A), Made("1.2", "ba", 6, B)
TREE = resident_of([A, B, AA, AB, BA])


@pytest.mark.parametrize(
    ("keys", "tokens"),
    [
        ([], 0),
        (["0.0"], 13),
        (["0.0", "0.1"], 15),
        (["1.0"], 17),
        (["1.0", "1.1"], 18),
        (["1.0", "0.0"], 17),
        (["1.0", "1.2"], 25),
        (["1.0", "1.0"], 17),
        (["1.0", "1.1", "1.2"], 26),
        (["nobody's"], 0),
    ],
)
def test_the_prompt_and_shared_steps_are_counted_once(keys: list[str], tokens: int) -> None:
    assert TREE.tokens(keys) == tokens


def test_token_steps_of_a_small_tree_by_hand() -> None:
    """First 10 + 2, 10 + 4, 10 + 5 while a and b are written; then 15 and 3, 5, 7, 9, 10, 11 more."""
    assert TREE.token_steps() == 12 + 14 + 15 + 6 * 15 + 3 + 5 + 7 + 9 + 10 + 11


def test_what_two_calls_wrote_alike_is_held_once() -> None:
    twin = Made("0.2", "a", 3)
    resident = resident_of([A, twin, AA, Made("1.1", "ac", 5, twin)])
    assert resident.tokens(["0.0", "0.2"]) == 13
    assert resident.tokens(["1.0", "1.1"]) == 13 + 4 + 5


@st.composite
def trees(draw: st.DrawFn, starts: int = 1) -> list[Made]:
    """Rounds of calls, each after one of an earlier round or after a prompt. The same text has the same length."""
    calls: list[Made] = []
    for round_ in range(draw(st.integers(1, 4))):
        parents = [None, *calls]
        for i in range(draw(st.integers(1, 4))):
            text = draw(st.sampled_from("uvwxyz"))
            parent = draw(st.sampled_from(parents))
            start = parent.start if parent else f"question {draw(st.integers(1, starts))}"
            calls.append(Made(f"{round_}.{i}", text, "uvwxyz".index(text), parent, start))
    return calls


@given(trees(starts=2), st.data())
def test_resident_are_the_different_tokens_of_all_paths(calls: list[Made], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(calls)))
    assert resident_of(calls).tokens(call.key for call in some) == len(set[Token]().union(*(c.resident for c in some)))


@given(trees(starts=2), st.data())
def test_what_is_kept_of_some_paths_never_needs_more_than_they_did(calls: list[Made], data: st.DataObject) -> None:
    before = data.draw(st.lists(st.sampled_from(calls), min_size=1))
    after = data.draw(st.lists(st.sampled_from(before)))
    resident = resident_of(calls)
    assert resident.tokens(call.key for call in after) <= resident.tokens(call.key for call in before)


@given(trees(), st.data())
def test_paths_that_share_need_no_more_than_the_sum_of_them(calls: list[Made], data: st.DataObject) -> None:
    some = data.draw(st.lists(st.sampled_from(calls)))
    resident = resident_of(calls)
    assert resident.tokens(call.key for call in some) <= sum(resident.tokens([call.key]) for call in some)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 9))
def test_paths_that_share_nothing_need_exactly_the_sum_of_them(lengths: list[int], more: int) -> None:
    calls = [Made(f"0.{i}", "a", tokens, start=f"question {i}") for i, tokens in enumerate(lengths)]
    calls += [Made(f"1.{i}", "b", more, parent, parent.start) for i, parent in enumerate(calls)]
    leaves, resident = [call.key for call in calls[len(lengths) :]], resident_of(calls)
    assert resident.tokens(leaves) == sum(resident.tokens([key]) for key in leaves)
    assert resident.tokens(leaves) == sum(lengths) + len(lengths) * (PROMPT + more)


@given(trees(starts=2))
def test_token_steps_are_what_is_resident_at_every_step_of_decoding(calls: list[Made]) -> None:
    """Every call of a batch takes a step at a time; those that are through wait for the last one."""
    batches: defaultdict[str, list[Made]] = defaultdict(list)
    for call in calls:
        batches[call.key.partition(".")[0]].append(call)
    total = 0
    for batch in batches.values():
        shared = len(set[Token]().union(*(call.before for call in batch)))
        for step in range(1, max(call.tokens for call in batch) + 1):
            total += shared + sum(min(step, call.tokens) for call in batch)
    assert resident_of(calls).token_steps() == total


SEARCHES: list[StepSearch] = [Beam(n=8), Rebase(n=8), ETS(n=8), Particles(n=8)]


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.name)
def test_a_choice_of_a_search_holds_less_afterwards_and_a_prompt_at_least(search: StepSearch) -> None:
    result, _ = searched(search, lettered(length=4))
    assert result.trace.selections
    for chosen in result.trace.selections:
        assert set(chosen.kept) <= set(chosen.candidates)
        assert 0 < chosen.after <= chosen.before
    assert result.trace.kv_token_steps > 0


def test_the_first_choice_of_a_beam_holds_the_prompt_once_and_a_step_of_each() -> None:
    result, _ = searched(Beam(n=8, m=4), lettered(length=3))
    first, step = result.trace.selections[0], result.trace.calls[0].tokens
    assert first.before - 8 * step == first.after - 2 * step == FakeBackend(lettered()).prompt_tokens(Path.of(PROBLEM))
