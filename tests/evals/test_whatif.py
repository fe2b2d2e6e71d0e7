"""Banks from the first sample to advice: filling, rehearsing, bounds, and that a bank tells what fresh runs would."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from scipy.stats import chi2_contingency, ks_2samp

from evals.bounds import Pooled, allocated
from evals.fill import fill
from evals.plan import Method
from evals.records import Unit
from evals.suites import Row as Given
from evals.suites import Suite
from evals.suites.base import Item, same_answer
from evals.whatif import Findings, Setting, Whatif, as_figures, cheapest, pareto, rehearsed
from strategies import BestOfN, SelfConsistency
from tests.fakes import solved, thinker
from tts.answers import Maths
from tts.backends.base import Request
from tts.backends.fake import FAKE, FakeBackend, Reply
from tts.bank import Bank, Manifest, Source
from tts.bank.deck import Deck
from tts.clock import run_virtual
from tts.cost import Price, Tariff, flops
from tts.errors import UsageError
from tts.rehearsal import Stage, rehearse
from tts.types import Budget, Sampling
from verifiers import Confidence

SAMPLING = Sampling(max_tokens=64)


def toy(problems: int = 6, quick: bool = True) -> Suite:
    def rows(_: object) -> list[Given]:
        return [Given(id=f"p{i}", problem=f"{i}?", answer="42", group=f"g{i % 2}") for i in range(problems)]

    return Suite(name="chain", about="", kind=Maths(), rows=rows, right=same_answer, quick=quick)


def filled(
    folder: Path,
    suite: Suite,
    samples: int,
    backend: FakeBackend | None = None,
    seed: int = 0,
    observe: Callable[[int, int], None] | None = None,
) -> int:
    """Fill a bank; how many samples are missing."""
    backend = backend or FakeBackend(thinker)
    manifest = Manifest(model=backend.info, sampling=SAMPLING, source=Source(suite="chain", split="test"))
    gaps = run_virtual(
        fill(
            suite.items("test", None),
            backend,
            manifest,
            folder,
            samples=samples,
            seed=seed,
            concurrency=2,
            observe=observe or (lambda done, new: None),
        )
    )
    assert (gaps.missing == 0) == (gaps.reason == "")
    return gaps.missing


def told(
    folder: Path,
    *budgets: tuple[Unit, float],
    resamples: int = 30,
    price: Price | None = None,
    suite: Suite | None = None,
) -> Findings:
    strategies = (BestOfN(), SelfConsistency())
    methods = [Method(label=s.name, strategy=s, verifier=Confidence(), fixed=False) for s in strategies]
    suite = suite or toy()
    plan = Whatif(suite, suite.items("test", None), methods, budgets, resamples, price)
    return rehearsed(Bank(folder), plan, None, lambda done: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("banks") / "toy"
    assert filled(made, toy(), 16) == 0
    return made


def test_a_bank_is_filled_once_extended_and_told_what_is_missing(tmp_path: Path) -> None:
    def failing(request: Request) -> Reply:
        return Reply("", error="overloaded") if request.seed % 4 == 0 else thinker(request)

    missing = filled(tmp_path, toy(), 16, FakeBackend(failing))
    assert 0 < missing < 6 * 16
    before = {problem: Bank(tmp_path).samples(problem, unfinished=True) for problem in Bank(tmp_path).problems}
    assert sum(map(len, before.values())) == 6 * 16 - missing
    assert all(count in (0, 16) for count in Bank(tmp_path).counts().values())
    again = FakeBackend(thinker)
    assert filled(tmp_path, toy(), 16, again) == 0
    assert again.calls == missing
    more = FakeBackend(thinker)
    assert filled(tmp_path, toy(8), 20, more) == 0
    assert more.calls == 6 * 4 + 2 * 20
    bank = Bank(tmp_path)
    assert bank.counts() == {f"p{i}": 20 for i in range(8)}
    assert all(set(before[problem]) <= set(bank.samples(problem)) for problem in before)


def test_a_filling_that_goes_on_says_how_many_samples_are_new(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    filled(tmp_path, toy(2), 4)
    filled(tmp_path, toy(3), 4, observe=lambda done, new: seen.append((done, new)))
    assert seen[:2] == [(4, 0), (8, 0)]
    assert seen[-4:] == [(9, 1), (10, 2), (11, 3), (12, 4)]


def test_a_sample_that_reaches_the_end_of_the_context_is_recorded(tmp_path: Path) -> None:
    small = FAKE.model_copy(update={"context": 30})
    assert filled(tmp_path, toy(), 16, FakeBackend(thinker, small)) == 0
    asked = Bank(tmp_path).problems["p0"]
    finishes = Counter(Bank(tmp_path).rows("p0", "finish")[1]["finish"])
    assert asked.prompt_tokens < 30
    assert finishes["length"] > 0


def test_a_prompt_that_is_too_long_leaves_a_gap_and_the_others_are_filled(tmp_path: Path) -> None:
    def rows(_: object) -> list[Given]:
        return [Given(id=f"p{i}", problem="six " * (100 * i + 1), answer="42") for i in range(2)]

    suite = Suite(name="chain", about="", kind=Maths(), rows=rows, right=same_answer, quick=True)
    assert filled(tmp_path, suite, 4, FakeBackend(thinker, FAKE.model_copy(update={"context": 100}))) == 4
    assert Bank(tmp_path).counts() == {"p0": 4}


def test_every_problem_is_tried_as_often_and_every_row_is_whole(folder: Path) -> None:
    found = told(folder, ("tokens", 200.0), ("samples", 4.0), resamples=20, price=Price(prompt=1.0, completion=2.0))
    rows = found.section.rows
    assert Counter(row.problem for row in rows) == {f"p{i}": 2 * 2 * 3 for i in range(6)}
    assert all(0 < row.tokens <= 200 for row in rows if row.cell.unit == "tokens")
    assert all(row.finished == 4 for row in rows if row.cell.unit == "samples")
    assert all(row.latency and row.seconds >= row.latency and row.usd and row.covered >= row.right for row in rows)
    for point in found.section.points:
        half, most = point.latency or (0.0, 0.0)
        assert 0 < half < most
    assert {p.recorded for p in found.pools.values()} == {16}
    assert all(0 < p.right < 16 for p in found.pools.values())


def test_with_fewer_resamples_than_problems_some_are_drawn(folder: Path) -> None:
    found = told(folder, ("samples", 4.0), resamples=2)
    assert len({row.problem for row in found.section.rows}) == len(found.pools) == 2


def test_a_strategy_that_needs_what_was_not_recorded_is_refused(tmp_path: Path) -> None:
    silent = FAKE.model_copy(update={"capabilities": frozenset()})
    filled(tmp_path, toy(), 4, FakeBackend(thinker, silent))
    with pytest.raises(UsageError, match="best_of_n needs logprobs from the backend"):
        told(tmp_path, ("samples", 4.0))


def test_a_budget_in_dollars_needs_a_price(folder: Path) -> None:
    with pytest.raises(UsageError, match="needs a price for fake; name a table with --prices"):
        told(folder, ("usd", 1.0))


def test_more_samples_than_there_are_is_refused_before_anything_is_rehearsed(tmp_path: Path) -> None:
    filled(tmp_path, toy(2), 4)
    filled(tmp_path, toy(), 3, seed=1)
    complaint = (
        "for 9 samples a job, .* lacks 28 samples of 6 problems; fill it up with tts bank fill chain --split test "
        "--limit 6 --samples 9 --out .*, or ask for no more than 3"
    )
    with pytest.raises(UsageError, match=complaint):
        told(tmp_path, ("samples", 2.0), ("samples", 9.0))
    with pytest.raises(UsageError, match="lacks 8 samples of 4 problems"):
        told(tmp_path, ("samples", 5.0))


def test_a_quick_grader_needs_no_event_loop(folder: Path) -> None:
    async def inside() -> Findings:
        return told(folder, ("samples", 4.0))

    assert any(row.right for row in asyncio.run(inside()).section.rows)


def test_a_deadline_cuts_what_a_job_gets(folder: Path) -> None:
    short, long = (told(folder, ("seconds", seconds)).section for seconds in (0.5, 50.0))
    assert all(row.latency == 0.5 and row.stop == "deadline" for row in short.rows)
    assert short.points[0].tokens < long.points[0].tokens
    assert short.points[0].truncated > 0 == long.points[0].truncated


def test_a_grader_that_hangs_is_an_error_and_no_wrong_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(suite: Suite, item: Item, answer: str) -> bool:
        if answer == "41":
            raise TimeoutError
        return answer == "42"

    monkeypatch.setattr("evals.whatif.graded", hangs)
    found = told(folder, ("samples", 16.0), suite=toy(quick=False))
    assert {row.error for row in found.section.errors} == {"the grader took more than 10 s"}


def test_the_frontier_holds_what_nothing_beats_and_the_cheapest_is_on_it(folder: Path) -> None:
    section = told(folder, *(("samples", float(n)) for n in (1, 2, 4, 8))).section
    settings = [Setting(section, point) for point in section.points]
    frontier = pareto(settings)
    merits = {id(s): (s.point.accuracy.mean, -s.flops, -s.p95) for s in settings}
    for one in settings:
        better = [o for o in settings if merits[id(o)] != merits[id(one)]]
        beaten = any(all(a >= b for a, b in zip(merits[id(o)], merits[id(one)], strict=True)) for o in better)
        assert (one in frontier) != beaten
    chosen = cheapest(settings, 0.6, None)
    assert chosen in frontier
    assert chosen.point.accuracy.mean >= 0.6
    assert all(s.flops >= chosen.flops for s in settings if s.point.accuracy.mean >= 0.6)
    assert cheapest(settings, 0.6, 0.001) is None
    assert cheapest(settings, 1.01, None) is None
    assert str(chosen).startswith(str(chosen.point.cell))


def test_the_figures_say_where_the_frontier_and_the_oracle_are(folder: Path) -> None:
    found = told(folder, ("samples", 1.0), ("samples", 16.0))
    settings = [Setting(found.section, point) for point in found.section.points]
    figures = as_figures([found], pareto(settings), settings[-1])
    (bank,) = figures["banks"]
    assert bank["oracle"][0] <= bank["oracle"][1] == pytest.approx(1.0)
    assert len(bank["frontier"]) == 4
    assert any(bank["frontier"])
    assert figures["cheapest"] == {"bank": 0, "cell": settings[-1].point.cell.model_dump()}


@pytest.mark.parametrize("first", [10.0, 100.0])
def test_an_oracles_allocation_is_the_best_there_is(first: float) -> None:
    pools = {
        "easy": Pooled(4, 3, first, 8.0),
        "hard": Pooled(4, 1, first + 4, 12.0),
        "hopeless": Pooled(4, 0, first, 9.0),
    }
    passes = {0: (0, 0, 0, 0, 0), 1: (0, 1 / 4, 1 / 2, 3 / 4, 1), 3: (0, 3 / 4, 1, 1, 1)}

    def cost(pool: Pooled, k: int) -> float:
        return pool.first + (k - 1) * pool.further if k else 0.0

    def brute(most: float) -> float:
        """Of all whole numbers of samples that can be paid."""
        taken = [list(zip(pools.values(), ks, strict=True)) for ks in product(range(5), repeat=3)]
        paid = (each for each in taken if sum(cost(pool, k) for pool, k in each) <= 3 * most)
        return max(sum(passes[pool.right][k] for pool, k in each) / 3 for each in paid)

    spends = [first * share for share in (0, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0)]
    assert all(allocated(pools, spend) >= brute(spend) - 1e-9 for spend in spends)
    assert allocated(pools, 0.0) == 0.0
    assert allocated(pools, (cost(pools["easy"], 2) + 1e-9) / 3) == pytest.approx(brute((first + 8.1) / 3))
    assert allocated(pools, 1e9) == pytest.approx(2 / 3)


def test_recorded_samples_tell_what_fresh_ones_would(tmp_path: Path) -> None:
    """Two samples of 400 jobs, one fresh and one from a bank of 16 samples a problem, which no two jobs share: answers
    and costs have the same distribution. At a fixed error rate of 1 in 1,000 for each of the four tests."""
    suite = toy(400)
    filled(tmp_path, suite, 16, seed=1)
    bank, items, budget = Bank(tmp_path), suite.items("test", None), Budget(tokens=10_000)
    for strategy in (BestOfN(n=6), SelfConsistency(n=6)):
        recorded, fresh = [], []
        for i, item in enumerate(items):
            stage = Stage(Deck(bank, bank.problems[item.problem.id]), Tariff(FAKE))
            job = rehearse(stage, item.problem, strategy, budget=budget, sampling=SAMPLING, scorer=Confidence(), seed=i)
            assert job.answer is not None
            recorded.append((job.answer.text, job.spent.tokens))
            result = solved(strategy, budget, problem=item.problem, sampling=SAMPLING, seed=10_000 + i)
            assert result.answer is not None
            fresh.append((result.answer.text, result.bill.tokens))
        answers = sorted({text for text, _ in recorded + fresh})
        counts = [[sum(text == answer for text, _ in each) for answer in answers] for each in (recorded, fresh)]
        assert chi2_contingency(counts).pvalue > 0.001
        assert ks_2samp([t for _, t in recorded], [t for _, t in fresh]).pvalue > 0.001


def test_a_first_sample_pays_for_the_prompt(folder: Path) -> None:
    found, bank = told(folder, ("samples", 1.0)), Bank(folder)
    asked, lengths = bank.problems["p0"], bank.rows("p0", "tokens")[1]["tokens"]
    mean = sum(flops(FAKE, asked.prompt_tokens, 0, length) for length in lengths) / len(lengths)
    assert found.pools["p0"].first == pytest.approx(mean)
