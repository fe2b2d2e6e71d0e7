"""Rehearsals: what `solve` would have come to on the same bank, to the last token."""

from __future__ import annotations

import math
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path as File
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import BestOfN, SelfConsistency, Single
from tests.fakes import PROBLEM, solved
from tests.tts.backends.test_bank import SAMPLING, recorded
from tts.backends.bank import BankBackend
from tts.backends.fake import FAKE
from tts.bank import Bank, Reading, write_scores
from tts.bank.deck import Deck
from tts.cost import Price, Tariff, flops
from tts.errors import RunError, UsageError
from tts.rehearsal import Rehearsal, Rehearsed, Stage, rehearse
from tts.run import Run
from tts.strategy import Strategy
from tts.types import Answer, Budget, Path, Problem, Sampling
from verifiers import Confidence
from verifiers.recorded import Recorded

PRICE = Price(prompt=1.0, completion=4.0, cached=0.25)
ROOT = Path.of(PROBLEM)
JUDGE = FAKE.model_copy(update={"name": "judge", "parameters": 1_000_000})


class Waves(Strategy):
    """Asks again and again, as long as there is something left; its seeded draws decide how often."""

    name: ClassVar[str] = "waves"
    when: ClassVar[str] = "In tests."

    async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
        for _ in range(4):
            paths = await run.sample([Path.of(problem)] * run.rng.randint(1, 3), 2)
            if not paths or run.remaining.tokens == 0:
                return
            last = paths[-1]
            yield Answer(
                text=last.text, path=last, extracted=False, support=0.0, chosen=f"{run.remaining.seconds or 0:.6f}"
            )


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return recorded(tmp_path_factory.mktemp("bank"))


def stage(bank: Bank) -> Stage:
    return Stage(Deck(bank, bank.problems[PROBLEM.id]), Tariff(FAKE, PRICE))


budgets = st.builds(
    Budget,
    tokens=st.integers(4, 2_000),
    seconds=st.none() | st.floats(0.05, 8.0),
    usd=st.none() | st.floats(1e-6, 5e-3),
    flops=st.none() | st.floats(1e9, 1e14),
)
strategies = st.one_of(
    st.builds(Single),
    st.builds(BestOfN, n=st.integers(1, 40)),
    st.builds(SelfConsistency, n=st.integers(1, 40), weights=st.sampled_from(["majority", "weighted", "borda"])),
    st.builds(Waves),
)


@settings(max_examples=300, deadline=None)
@given(budget=budgets, strategy=strategies, seed=st.integers(0, 99), most=st.sampled_from([3, 20, 64]))
def test_a_rehearsal_comes_to_what_solving_comes_to(
    bank: Bank, budget: Budget, strategy: Strategy, seed: int, most: int
) -> None:
    sampling = SAMPLING.model_copy(update={"max_tokens": most})
    told = rehearse(stage(bank), PROBLEM, strategy, budget=budget, sampling=sampling, scorer=Confidence(), seed=seed)
    result = solved(
        strategy, budget, backend=BankBackend(bank), sampling=sampling, seed=seed, prices={FAKE.name: PRICE}
    )
    assert (told.stop, told.finished, told.truncated) == (
        result.stop,
        result.samples.finished,
        result.samples.truncated,
    )
    assert told.spent.tokens == result.bill.tokens
    if result.usage:
        policy = result.usage["policy"]
        assert told.usage.model_copy(update={"seconds": policy.seconds}) == policy
        assert told.usage.seconds == pytest.approx(policy.seconds)
    assert (told.spent.usd, told.spent.flops) == pytest.approx((result.bill.usd, result.bill.flops), rel=1e-9)
    assert told.seconds == pytest.approx(result.bill.seconds, abs=1e-6)
    if told.answer is None or result.answer is None:
        assert told.answer is result.answer is None
        return
    for name in ("text", "extracted", "votes", "chosen"):
        assert getattr(told.answer, name) == getattr(result.answer, name)
    assert told.answer.support == pytest.approx(result.answer.support)


def test_what_recorded_samples_cannot_answer_is_refused_with_the_reason(bank: Bank) -> None:
    def run(sampling: Sampling = SAMPLING) -> Rehearsal:
        return Rehearsal(stage(bank), Budget(tokens=100), sampling)

    def refused(coroutine: object, reason: str) -> None:
        with pytest.raises(UsageError, match=reason):
            coroutine.send(None)  # type: ignore[attr-defined]

    refused(run().sample([ROOT.append("so")]), "to continue one needs a live backend")
    refused(run().sample([ROOT], until=("\n",)), "early stops need a live backend")
    refused(run().sample([ROOT], model="judge"), "to ask the judge needs a live backend")
    refused(run().sample([Path.of(Problem.ask("Who?", PROBLEM.kind))]), "no samples of this prompt")
    refused(run(Sampling(temperature=0.1)).sample([ROOT]), r"recorded with temperature=0\.8")
    refused(Rehearsal(stage(bank), Budget(tokens=10_000), SAMPLING).sample([ROOT], 65), "this job lacks up to 1 more")
    with pytest.raises(UsageError, match="run this strategy on the bank as a backend"):
        run().gather()
    with pytest.raises(RunError, match="no verifier"):
        run().score([]).send(None)


def test_a_strategy_that_waits_for_something_else_is_told(bank: Bank) -> None:
    import asyncio

    class Sleeper(Strategy):
        name: ClassVar[str] = "sleeper"
        when: ClassVar[str] = "Never."

        async def search(self, problem: Problem, run: Run) -> AsyncGenerator[Answer, None]:
            await asyncio.sleep(0)
            return
            yield

    with pytest.raises(RunError, match="sleeper waits for something that its Run did not give it"):
        rehearse(stage(bank), PROBLEM, Sleeper(), budget=Budget(tokens=9), sampling=SAMPLING)


def test_every_sample_is_dealt_once_a_job(bank: Bank, tmp_path: File) -> None:
    run = Rehearsal(stage(bank), Budget(flops=1e20), SAMPLING)
    with pytest.raises(StopIteration) as ended:
        run.sample([ROOT] * 4, 16).send(None)
    assert len({path.steps[0].key for path in ended.value.value}) == 64


@pytest.fixture
def read(bank: Bank, tmp_path: File) -> Bank:
    """The bank, of whose samples a judge of a million parameters likes the longer ones."""
    folder = tmp_path / "read"
    shutil.copytree(bank.folder, folder)
    keys, rows = bank.rows(PROBLEM.id, "tokens")
    steps = {key: [tokens / 100, 0.5] for key, tokens in zip(keys, rows["tokens"], strict=True)}
    write_scores(Bank(folder), "judge", JUDGE, {PROBLEM.id: Reading(JUDGE, steps)})
    with pytest.raises(UsageError, match="scores of another model"):
        write_scores(Bank(folder), "judge", FAKE, {})
    return Bank(folder)


def test_recorded_scores_choose_and_the_reading_is_charged(read: Bank) -> None:
    scorer, asked, deck = Recorded(by="judge"), read.problems[PROBLEM.id], Deck(read, read.problems[PROBLEM.id])
    lengths = dict(zip(deck.texts, deck.lengths, strict=True))

    def told(budget: Budget, strategy: Strategy) -> Rehearsed:
        return rehearse(stage(read), PROBLEM, strategy, budget=budget, sampling=SAMPLING, scorer=scorer, seed=3)

    plain, job = (told(Budget(tokens=10_000), strategy(n=8)) for strategy in (SelfConsistency, BestOfN))
    run = Rehearsal(stage(read), Budget(tokens=10_000), SAMPLING, scorer, seed=3)
    with pytest.raises(StopIteration) as ended:
        run.sample([ROOT], 8).send(None)
    texts = list(dict.fromkeys(path.text for path in ended.value.value))
    assert (job.usage, job.spent.tokens) == (plain.usage, plain.spent.tokens)
    assert job.read == asked.prompt_tokens + sum(lengths[text] for text in texts)
    reading = [
        flops(JUDGE, asked.prompt_tokens + lengths[text], asked.prompt_tokens if i else 0, 0)
        for i, text in enumerate(texts)
    ]
    assert job.spent.flops == pytest.approx(plain.spent.flops + sum(reading))
    assert job.answer is not None
    assert job.answer.path.tokens == max(lengths[text] for text in texts)
    poor = told(Budget(flops=plain.spent.flops + 2e8), BestOfN(n=8))
    assert poor.spent.flops <= plain.spent.flops + 2e8
    assert poor.stop == "budget"
    every = told(Budget(flops=1e20), BestOfN(n=64))
    assert every.answer is not None
    assert every.answer.support == pytest.approx((max(deck.lengths) / 100 + 0.5) / 2)


def test_scores_that_nobody_made_are_named(read: Bank) -> None:
    with pytest.raises(UsageError, match="holds no scores of prm; it has those of judge"):
        read.reading("prm", PROBLEM.id)


@pytest.mark.parametrize("steps", [[], [-0.5], [math.nan]])
def test_scores_that_are_missing_or_make_no_sense_are_refused(bank: Bank, tmp_path: File, steps: list[float]) -> None:
    folder = tmp_path / "read"
    shutil.copytree(bank.folder, folder)
    keys, _ = bank.rows(PROBLEM.id)
    scores = {key: [0.5] for key in keys[2:]} | {keys[0]: steps}
    write_scores(Bank(folder), "judge", JUDGE, {PROBLEM.id: Reading(JUDGE, scores)})
    run = Rehearsal(stage(Bank(folder)), Budget(tokens=10_000), SAMPLING, Recorded(by="judge"))
    with pytest.raises(UsageError, match="no scores by judge of 2 samples"):
        run.score([]).send(None)
