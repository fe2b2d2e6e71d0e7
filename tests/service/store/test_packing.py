"""Records as few bytes, and the records again."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.packing import packed, unpacked
from strategies import DVTS, BestOfN, Particles
from tests.fakes import PROBLEM, Dying, Nested, solved, stepper
from tests.service.serving import completion, held, settled
from tts.backends.fake import FakeBackend
from tts.errors import JournalError
from tts.journal import Checkpoint, Computed, MemoryJournal, Record, Settled
from tts.strategy import Strategy
from tts.types import Budget, Problem, Sampling

CHAIN = "y=22*7\nc=g-m\nq=18+u\nj=m*a\ne=c+20\nx=6+g\nd=m-a\nr=16-15\nu=e*19\nf=g+m\ng=6-19\na=16*7\nm=y*18\nj,d,u?"


def recorded(strategy: Strategy) -> list[Record]:
    """All that a real run writes down, its worker's death included."""
    dying = Dying(12)
    with pytest.raises(Dying.Killed):
        solved(strategy, Budget(tokens=3_000), backend=FakeBackend(stepper), journal=dying)
    journal = MemoryJournal(dying.records)
    solved(strategy, Budget(tokens=3_000), backend=FakeBackend(stepper), journal=journal)
    return journal.records


def again(record: Record) -> Record:
    return unpacked(packed(record), PROBLEM)


@pytest.mark.parametrize("strategy", [BestOfN(n=8), DVTS(n=8), Particles(n=8), Nested()], ids=lambda each: each.name)
def test_every_record_of_a_run_is_the_same_again(strategy: Strategy) -> None:
    for record in recorded(strategy):
        assert again(record) == record


def test_there_is_no_type_of_record_that_was_not_tried() -> None:
    records = [record for strategy in (DVTS(n=8), Nested()) for record in recorded(strategy)]
    more: list[Record] = [
        Checkpoint(key="0.0", piece=completion("so"), at=1.0),
        Computed(key="0", request="r", value=[[0, 1], "ü"], timed_out=False, at=0.5),
    ]
    assert [again(record) for record in more] == more
    records += more
    assert {type(record) for record in records} == set(get_args(Record))
    assert any(isinstance(record, Settled) and record.outcome == "lost" for record in records)


@given(
    text=st.text(),
    ids=st.none() | st.lists(st.integers(0, 2**40)).map(tuple),
    logprob=st.none() | st.floats(-1e6, 0),
    at=st.floats(0, 1e9),
)
def test_whatever_a_model_says_is_the_same_again(
    text: str, ids: tuple[int, ...] | None, logprob: float | None, at: float
) -> None:
    piece = completion(text).model_copy(update={"token_ids": ids, "logprob": logprob})
    assert again(settled("0").model_copy(update={"segments": (piece,), "at": at})) == settled("0").model_copy(
        update={"segments": (piece,), "at": at}
    )
    assert again(Checkpoint(key=text, piece=piece, at=at)) == Checkpoint(key=text, piece=piece, at=at)
    assert again(held(text)) == held(text)


@pytest.mark.parametrize("entry", [b"", b"\x02abc", b"\x01", b"\x01\xff\xff", packed(held("0"))[:-3]])
def test_what_is_no_record_is_refused(entry: bytes) -> None:
    with pytest.raises(JournalError):
        unpacked(entry, PROBLEM)


def test_a_header_does_not_hold_the_problem() -> None:
    header = recorded(BestOfN(n=8))[0]
    other = Problem.ask("another " * 500, PROBLEM.kind)
    assert len(packed(header.model_copy(update={"problem": other}))) == len(packed(header))
    assert unpacked(packed(header), other) == header.model_copy(update={"problem": other})


@pytest.mark.parametrize("strategy", [BestOfN(n=8), DVTS(n=8)], ids=lambda each: each.name)
def test_the_journal_of_a_real_model_has_six_bytes_a_token_at_most(strategy: Strategy) -> None:
    pytest.importorskip("torch", reason="the local backend's extra is not installed")
    from service.options import open_backend

    problem, journal = Problem.ask(CHAIN, PROBLEM.kind, ""), MemoryJournal()
    backend = open_backend("local:evals/lab/models/chain-2m")
    result = solved(
        strategy,
        Budget(tokens=2_000),
        backend=backend,
        journal=journal,
        problem=problem,
        sampling=Sampling(max_tokens=256),
    )
    assert result.bill.tokens > 500
    assert sum(map(len, map(packed, journal.records))) <= 6 * result.bill.tokens
