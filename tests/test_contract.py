"""What must hold for every strategy, budget and backend."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import ABMCTS, DVTS, ETS, BestOfN, SelfConsistency
from strategies.tree import StepSearch
from tests.fakes import (
    STRATEGIES,
    Dying,
    Nested,
    as_told,
    books_of,
    in_flight,
    solved,
    stepper,
    thinker,
    unreliable,
)
from tts.backends.base import CHECKPOINT, Request
from tts.backends.fake import FakeBackend, Reply
from tts.clock import run_virtual
from tts.cost import Price
from tts.journal import Ended, Held, MemoryJournal, Record, Settled
from tts.strategy import Strategy
from tts.types import Budget, Result, Sampling

PRICES = {"fake": Price(prompt=1.0, completion=5.0)}
BUDGETS = [
    Budget(tokens=1),
    Budget(tokens=40),
    Budget(tokens=400),
    Budget(tokens=20_000),
    Budget(seconds=1.5),
    Budget(tokens=300, seconds=2.0),
    Budget(usd=0.002),
    Budget(flops=1e9),
]
HANDLERS = [thinker, unreliable, stepper]


def name(value: object) -> str:
    if isinstance(value, Strategy):
        return f"{value.name}-{getattr(value, 'weights', '')}".strip("-")
    if isinstance(value, Budget):
        return " ".join(f"{unit}={x}" for unit, x in value.model_dump().items() if x is not None)
    return getattr(value, "__name__", str(value))


every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
every_budget = pytest.mark.parametrize("budget", BUDGETS, ids=name)
every_handler = pytest.mark.parametrize("handler", HANDLERS, ids=name)


@every_strategy
@every_budget
@every_handler
def test_the_budget_is_a_cap_and_three_counts_agree(
    strategy: Strategy, budget: Budget, handler: Callable[[Request], Reply]
) -> None:
    backend, journal = FakeBackend(handler), MemoryJournal()
    result = solved(strategy, budget, backend=backend, journal=journal, prices=PRICES)
    within(result, budget)
    books = books_of(journal.records)
    assert result.bill.tokens - result.bill.lost == backend.generated
    assert result.bill.tokens == books.spent.tokens
    assert result.bill.tokens - result.bill.lost == sum(use.completion_tokens for use in result.usage.values())
    assert result.bill.usd == books.spent.usd
    assert backend.calls == sum(isinstance(record, Held) for record in journal.records)
    assert not in_flight(journal.records)


def within(result: Result, budget: Budget) -> None:
    bill = result.bill
    assert bill.tokens <= (budget.tokens or bill.tokens)
    assert bill.seconds <= (budget.seconds or bill.seconds) + 0.2
    assert (bill.usd or 0) <= (budget.usd or bill.usd or 0) * (1 + 1e-9)
    assert bill.flops <= (budget.flops or bill.flops) * (1 + 1e-9)


@every_strategy
@pytest.mark.parametrize("tokens", [1, 3, 8, 40, 41])
def test_a_tiny_budget_ends_in_an_answer_or_an_honest_none(strategy: Strategy, tokens: int) -> None:
    result = solved(strategy, Budget(tokens=tokens))
    assert result.bill.tokens <= tokens
    assert result.answer is None or result.answer.text
    if result.answer is None or not result.answer.extracted:
        assert result.notes


@every_strategy
@every_budget
def test_the_same_seed_gives_the_same_result_bill_and_journal(strategy: Strategy, budget: Budget) -> None:
    journals = MemoryJournal(), MemoryJournal()
    first, second = (solved(strategy, budget, journal=journal, prices=PRICES, seed=7) for journal in journals)
    assert first == second
    assert as_told(journals[0].records) == as_told(journals[1].records)


def test_another_seed_gives_another_search() -> None:
    first, second = (solved(BestOfN(n=8), Budget(tokens=4_000), seed=seed) for seed in (1, 2))
    assert first.trace != second.trace


def silent(request: Request) -> Reply:
    raise AssertionError("a replay asked for tokens")


@every_strategy
@every_budget
@every_handler
def test_the_same_journal_gives_the_same_result_without_a_token(
    strategy: Strategy, budget: Budget, handler: Callable[[Request], Reply]
) -> None:
    journal = MemoryJournal()
    first = solved(strategy, budget, backend=FakeBackend(handler), journal=journal, prices=PRICES)
    before = list(journal.records)
    assert solved(strategy, budget, backend=FakeBackend(silent), journal=journal, prices=PRICES) == first
    assert journal.records == before


@pytest.mark.parametrize("tokens", range(100, 500, 10))
def test_a_strategy_that_looks_at_what_remains_is_shown_the_same_by_its_journal(tokens: int) -> None:
    journal = MemoryJournal()
    first = solved(Nested(), Budget(tokens=tokens), journal=journal)
    assert solved(Nested(), Budget(tokens=tokens), backend=FakeBackend(silent), journal=journal) == first


@pytest.mark.parametrize(
    "strategy", [Nested(), BestOfN(n=5), SelfConsistency(n=4), ETS(n=4), DVTS(n=4), ABMCTS(n=2, width=3)], ids=name
)
@pytest.mark.parametrize(
    "budget", [Budget(tokens=2_000), Budget(tokens=150), Budget(tokens=900, seconds=6.0)], ids=name
)
def test_a_job_killed_at_any_journal_position_is_completed_from_its_journal(strategy: Strategy, budget: Budget) -> None:
    whole = MemoryJournal()
    handler = stepper if isinstance(strategy, StepSearch) else thinker
    uninterrupted = solved(strategy, budget, backend=FakeBackend(handler), journal=whole)
    for position in range(1, len(whole.records)):
        resumed_after(position, strategy, budget, handler, uninterrupted, whole.records)


def resumed_after(
    position: int,
    strategy: Strategy,
    budget: Budget,
    handler: Callable[[Request], Reply],
    uninterrupted: Result,
    whole: list[Record],
) -> None:
    dying = Dying(position)
    with pytest.raises(Dying.Killed):
        solved(strategy, budget, backend=FakeBackend(handler), journal=dying)
    died = dying.records
    assert as_told(died) == as_told(whole[:position])
    flying = in_flight(died)
    backend, journal = FakeBackend(handler), MemoryJournal(died)
    result = solved(strategy, budget, backend=backend, journal=journal)
    assert isinstance(journal.records[-1], Ended)
    assert result.bill.tokens <= (budget.tokens or 0)
    assert result.bill.lost == sum(min(CHECKPOINT, held.granted) for held in flying)
    paid_before = sum(r.spend.tokens for r in died if isinstance(r, Settled))
    assert backend.generated == result.bill.tokens - result.bill.lost - paid_before
    keys = [record.key for record in journal.records if isinstance(record, Settled)]
    assert len(keys) == len(set(keys)), "a settled call was paid twice"
    if not flying and budget.seconds is None:
        assert result.answer == uninterrupted.answer
        assert result.bill.tokens == uninterrupted.bill.tokens
        assert (result.stop, result.samples, result.usage) == (
            uninterrupted.stop,
            uninterrupted.samples,
            uninterrupted.usage,
        )


def test_a_resumed_job_equals_an_uninterrupted_one_where_the_budget_covers_what_was_lost() -> None:
    strategy, budget = Nested(), Budget(tokens=100_000)
    whole = MemoryJournal()
    answer = solved(strategy, budget, journal=whole).answer
    for position in range(1, len(whole.records)):
        resumed = solved(strategy, budget, journal=MemoryJournal(whole.records[:position])).answer
        assert resumed is not None
        assert answer is not None
        assert (resumed.text, resumed.votes) == (answer.text, answer.votes)


def test_a_job_may_be_killed_again_while_it_resumes() -> None:
    strategy, budget = BestOfN(n=4), Budget(tokens=10_000)
    records: list[Record] = []
    for more in (3, 4, 5, 2):
        dying = Dying(len(records) + more)
        dying.records = records
        with pytest.raises(Dying.Killed):
            solved(strategy, budget, journal=dying)
        records = dying.records
    result = solved(strategy, budget, journal=MemoryJournal(records))
    assert result.bill.lost > 0
    assert result.bill.tokens <= 10_000
    assert result.samples.finished == 4


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 3_000),
    n=st.integers(1, 64),
    most=st.integers(1, 200),
    seed=st.integers(0, 10_000),
)
def test_no_budget_is_ever_exceeded_at_any_concurrency(tokens: int, n: int, most: int, seed: int) -> None:
    backend = FakeBackend(thinker)
    result = solved(BestOfN(n=n), Budget(tokens=tokens), backend=backend, sampling=Sampling(max_tokens=most), seed=seed)
    assert backend.generated == result.bill.tokens <= tokens


@pytest.mark.parametrize("strategy", STRATEGIES, ids=name)
def test_a_deadline_is_honoured_within_two_tenths_of_a_second(strategy: Strategy) -> None:
    def slow(request: Request) -> Reply:
        return Reply("word " * 400 + "\\boxed{42}", latency=0.1, per_token=0.05)

    result = solved(strategy, Budget(seconds=3.0), backend=FakeBackend(slow))
    assert result.stop == "deadline"
    assert 3.0 <= result.bill.seconds <= 3.2
    assert result.bill.tokens > 0, "what was in flight at the deadline is delivered and billed"
    assert result.samples.finished == 0


def test_a_backend_that_ignores_the_halt_is_let_go_and_charged_in_full() -> None:
    def deaf(request: Request) -> Reply:
        return Reply("word " * 100, latency=60.0, stubborn=60.0)

    journal = MemoryJournal()
    result = solved(
        BestOfN(n=3),
        Budget(seconds=1.0, tokens=400),
        backend=FakeBackend(deaf),
        journal=journal,
        sampling=Sampling(max_tokens=100),
    )
    assert result.stop == "deadline"
    assert result.bill.seconds <= 1.2
    assert result.bill.lost == result.bill.tokens == 300
    assert [r.outcome for r in journal.records if isinstance(r, Settled)] == ["abandoned"] * 3 + ["refused"]
    assert result.samples.failed == 3


def test_a_failed_sample_is_left_out_and_shown() -> None:
    result = solved(SelfConsistency(n=40), Budget(tokens=40_000), backend=FakeBackend(unreliable))
    assert result.answer is not None
    assert 0 < result.samples.failed < 40
    assert sum(vote.count for vote in result.answer.votes) == 40 - result.samples.failed
    assert any("overloaded" in note for note in result.notes)


def test_a_truncated_sample_votes_only_with_an_answer_it_had_stated() -> None:
    def cut(request: Request) -> Reply:
        stated = random.Random(request.seed).random() < 0.5
        return Reply(("The answer is \\boxed{42} and " if stated else "So 17 and 18 make 35 and ") + "on " * 500)

    result = solved(
        SelfConsistency(n=20), Budget(tokens=1_000), backend=FakeBackend(cut), sampling=Sampling(max_tokens=30)
    )
    assert result.samples.truncated == 20
    assert result.answer is not None
    assert [vote.answer for vote in result.answer.votes] == ["42"]
    assert 0 < result.answer.votes[0].count < 20


def test_virtual_time_passes_in_no_time() -> None:
    async def main() -> float:
        import asyncio

        began = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main()) == pytest.approx(3600)
