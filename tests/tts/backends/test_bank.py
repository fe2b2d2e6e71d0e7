"""A bank through the ordinary door: what was recorded, once a job, at what it cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from strategies import BestOfN, SelfConsistency
from tests.fakes import PROBLEM, solved, thinker
from tts.backends.bank import BankBackend
from tts.backends.base import Request
from tts.backends.fake import FAKE, FakeBackend
from tts.bank import Asked, Bank, Complete, Drawn, Filling, Manifest, Source
from tts.clock import run_virtual
from tts.errors import UsageError
from tts.halt import Halt
from tts.types import Budget, Completion, Problem, Sampling
from tts.types import Path as Branch

SAMPLING = Sampling(max_tokens=64)
START = Branch.of(PROBLEM)


def request(number: int, job: str = "job", **fields: Any) -> Request:
    given: dict[str, Any] = {"path": START, "prompt_tokens": 8, "max_tokens": 64, "sampling": SAMPLING, "halt": Halt()}
    return Request(id=f"{job}:0.{number};", seed=number, **{**given, **fields})


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    return recorded(tmp_path_factory.mktemp("bank"))


def recorded(folder: Path) -> Bank:
    """64 thoughts about one problem."""
    source = FakeBackend(thinker)

    async def fill() -> None:
        length = source.prompt_tokens(START)
        with Filling(
            folder, Manifest(model=FAKE, sampling=SAMPLING, source=Source(suite="x", split="test"))
        ) as filling:
            filling.ask(Asked(id=PROBLEM.id, start=PROBLEM.messages, prompt_tokens=length))
            for number in range(64):
                completion = await source.generate(request(number, prompt_tokens=length))
                usage = completion.usage.model_copy(update={"cached_tokens": length - 1 if number else 0})
                completion = completion.model_copy(update={"usage": usage})
                filling.add(Drawn(problem=PROBLEM.id, seed=0, number=number, completion=completion))
            filling.complete(Complete(problem=PROBLEM.id, seed=0, samples=64))

    run_virtual(fill())
    return Bank(folder)


def served(bank: Bank, *requests: Request) -> list[Completion]:
    backend = BankBackend(bank)

    async def main() -> list[Completion]:
        return list(await asyncio.gather(*map(backend.generate, requests)))

    return run_virtual(main())


def test_a_job_draws_every_sample_once_in_an_order_of_its_own(bank: Bank) -> None:
    recorded = Counter(each.completion.text for each in bank.samples(PROBLEM.id))
    orders = set()
    for job in range(3):
        texts = [each.text for each in served(bank, *(request(job * 1000 + 7 * i, str(job)) for i in range(64)))]
        assert Counter(texts) == recorded
        orders.add(tuple(texts))
    assert len(orders) == 3


def test_a_job_that_wants_more_than_there_is_is_told(bank: Bank) -> None:
    with pytest.raises(UsageError, match=r"holds 64 samples of .* asks for more; .*as many --samples as it draws"):
        served(bank, *(request(i) for i in range(65)))


def test_the_bill_is_what_the_samples_cost_and_the_same_again(bank: Bank) -> None:
    one, again = (
        solved(BestOfN(n=16), Budget(tokens=5000), backend=BankBackend(bank), sampling=SAMPLING, seed=3) for _ in "ab"
    )
    assert one == again
    other = solved(BestOfN(n=16), Budget(tokens=5000), backend=BankBackend(bank), sampling=SAMPLING, seed=4)
    assert other.bill != one.bill
    lengths = Counter(each.completion.usage.completion_tokens for each in bank.samples(PROBLEM.id))
    bought = Counter(call.tokens for call in one.trace.calls)
    assert bought <= lengths
    assert one.bill.tokens == sum(call.tokens for call in one.trace.calls)
    assert one.bill.seconds == pytest.approx(max(call.settled_at for call in one.trace.calls))


def test_a_grant_cuts_a_sample_where_the_model_would_have_been_cut(bank: Bank) -> None:
    (longest,) = sorted(bank.samples(PROBLEM.id), key=lambda each: each.completion.usage.completion_tokens)[-1:]
    whole = longest.completion
    assert whole.token_ids is not None
    cut = served(bank, request(longest.number, max_tokens=5))[0]
    assert (cut.finish, cut.usage.completion_tokens) == ("length", 5)
    assert (cut.text, cut.logprob) == ("", None)  # this bank has no tokenizer to spell the first five
    assert cut.usage.seconds == pytest.approx(whole.usage.seconds * 5 / whole.usage.completion_tokens, rel=1e-5)


def test_a_deadline_ends_a_sample_in_proportion(bank: Bank) -> None:
    result = solved(SelfConsistency(n=16), Budget(seconds=0.5), backend=BankBackend(bank), sampling=SAMPLING)
    assert result.stop == "deadline"
    assert result.samples.truncated > 0
    assert 0.4 < result.bill.seconds < 0.7


def test_what_a_bank_does_not_hold_is_refused_with_the_reason(bank: Bank) -> None:
    other = Problem.ask("How much is six times eight?", PROBLEM.kind)
    with pytest.raises(UsageError, match="no samples of this prompt"):
        BankBackend(bank).prompt_tokens(Branch.of(other))
    with pytest.raises(UsageError, match="to continue one needs a live backend"):
        served(bank, request(0, path=START.append("so")))
    with pytest.raises(UsageError, match="early stops need a live backend"):
        served(bank, request(0, until=("\n",)))
    with pytest.raises(UsageError, match=r"recorded with temperature=0\.8"):
        served(bank, request(0, sampling=Sampling(max_tokens=64, temperature=0.7)))
    with pytest.raises(UsageError, match="recorded with max_tokens=64"):
        served(bank, request(0, sampling=Sampling(max_tokens=65)))
