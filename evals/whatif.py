"""What strategies would have brought and cost on recorded samples, and the most that anything could have brought."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path as File
from typing import Any, NamedTuple, cast

from evals.bounds import Pooled, allocated
from evals.evaluate import GRADING_SECONDS, graded
from evals.held import check_samples, check_whole_samples
from evals.lab.splits import Split
from evals.plan import Method
from evals.records import Cell, Row, Settings, Unit
from evals.report import Point, Section, as_object
from evals.suites import SUITES, Item, Suite, digested
from tts.bank import Bank
from tts.bank.deck import Deck, served
from tts.cost import Price, Tariff
from tts.errors import UsageError, unknown
from tts.job import check
from tts.rehearsal import Rehearsed, Stage, rehearse
from tts.solve import code_version
from tts.types import number


@dataclass(frozen=True)
class Whatif:
    """Which jobs are rehearsed: every method at every budget about `resamples` times, as often for each problem. With
    fewer resamples than problems, lots decide whose turn it is."""

    suite: Suite
    items: Sequence[Item]
    methods: Sequence[Method]
    budgets: Sequence[tuple[Unit, float]]
    resamples: int
    price: Price | None = None
    seed: int = 0

    @property
    def jobs(self) -> int:
        return len(self.methods) * len(self.budgets) * len(self.drawn()) * self.each

    def cells(self) -> list[tuple[Method, Cell]]:
        """Every point of every curve."""
        return [(m, Cell(method=m.label, unit=u, amount=a)) for m in self.methods for u, a in self.budgets]

    @property
    def each(self) -> int:
        """How often a method at a budget tries a problem."""
        return max(1, round(self.resamples / len(self.items)))

    def drawn(self) -> list[Item]:
        """The problems whose turn it is."""
        if self.resamples >= len(self.items):
            return list(self.items)
        return random.Random(self.seed).sample(list(self.items), self.resamples)


def problems_of(bank: Bank, data: File | None = None) -> tuple[Suite, list[Item]]:
    """The suite that a bank was filled from and those of its problems that the bank holds, with their references.
    `data` is the file they came from, if it was one."""
    source = bank.manifest.source
    bank.check_whole()
    if source.suite not in SUITES:
        raise unknown("suite", source.suite, SUITES)
    if source.data != digested(data):
        raise UsageError(
            f"{bank.folder} was filled from {source.data or 'the suite itself'}: give --data that file, and no other"
        )
    items = SUITES[source.suite].items(cast(Split, source.split), len(bank.problems), data)
    counts = bank.counts()
    held = [item for item in items if counts.get(item.problem.id)]
    if not held:
        raise UsageError(f"{bank.folder} holds all samples of no problem that {source.suite} has today; fill it again")
    return SUITES[source.suite], held


class Findings(NamedTuple):
    """What the rehearsals came to, the samples behind them, and how many jobs were rehearsed in a second."""

    section: Section
    pools: dict[str, Pooled]
    rate: float


class Setting(NamedTuple):
    """A method at a budget, on one bank."""

    section: Section
    point: Point

    @property
    def flops(self) -> float:
        return self.section.flops(self.point)

    @property
    def p95(self) -> float:
        assert self.point.latency is not None, "rehearsed jobs know how long they took"
        return self.point.latency[1]

    def __str__(self) -> str:
        mean, low, high = self.point.accuracy
        return (
            f"{self.point.cell} on {self.section.settings.model.name}: {mean:.1%} ({low:.1%} to {high:.1%}) "
            f"for {self.point.compute:,.0f} policy tokens, 95 % within {self.p95:.3g} s"
        )


def rehearsed(bank: Bank, plan: Whatif, baseline: str | None, observe: Callable[[int], None]) -> Findings:
    """Rehearse every job; `observe` is told how many there have been. A problem's samples are in memory only while
    its own jobs are rehearsed."""
    tariff, manifest = Tariff(bank.manifest.model, plan.price), bank.manifest
    if plan.price is None and any(unit == "usd" for unit, _ in plan.budgets):
        raise UsageError(f"a budget in dollars needs a price for {tariff.model.name}; name a table with --prices")
    rows: list[Row] = []
    pools: dict[str, Pooled] = {}
    began = time.perf_counter()
    for method in plan.methods:
        check_whole_samples(bank, method.strategy)
        check(method.strategy, plan.items[0].problem, method.verifier, served(bank.manifest.model))
    counts = bank.counts()
    check_samples(bank, [counts[item.problem.id] for item in plan.drawn()], plan.cells())
    for item in plan.drawn():
        stage, judge = Stage(Deck(bank, bank.problems[item.problem.id]), tariff), _Judge(plan.suite, item)
        pools[item.problem.id] = _pooled(stage, judge)
        for i, (method, cell) in product(range(plan.each), plan.cells()):
            told = rehearse(
                stage,
                item.problem,
                method.at(cell, tariff.model.parameters, manifest.sampling.max_tokens),
                budget=cell.budget(manifest.sampling),
                sampling=manifest.sampling,
                scorer=method.verifier,
                seed=number(f"{plan.seed}/{i}/{item.problem.id}"),
            )
            rows.append(_row(cell, i, judge, told, plan.price is not None))
        observe(len(rows))
    settings = Settings(
        suite=manifest.source.suite,
        split=cast(Split, manifest.source.split),
        data=manifest.source.data,
        model=manifest.model,
        sampling=manifest.sampling,
        code=code_version(),
    )
    return Findings(Section(settings, rows, [], baseline), pools, len(rows) / (time.perf_counter() - began))


def pareto(settings: Sequence[Setting]) -> list[Setting]:
    """Those that no other one beats in accuracy, compute or latency without being worse in another."""

    def merits(setting: Setting) -> tuple[float, float, float]:
        return setting.point.accuracy.mean, -setting.flops, -setting.p95

    def beaten(setting: Setting) -> bool:
        own = merits(setting)
        others = (merits(other) for other in settings)
        return any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in others)

    return [setting for setting in settings if not beaten(setting)]


def cheapest(settings: Sequence[Setting], accuracy: float | None, seconds: float | None) -> Setting | None:
    """The one of least compute whose accuracy and 95th percentile of latency are as wished."""
    enough = [
        setting
        for setting in settings
        if setting.point.accuracy.mean >= (accuracy or 0.0) and setting.p95 <= (seconds or math.inf)
    ]
    return min(enough, key=lambda setting: setting.flops, default=None)


def as_figures(found: Sequence[Findings], frontier: Sequence[Setting], chosen: Setting | None) -> dict[str, Any]:
    """All of it as JSON, for scripts."""
    sections = as_object([each.section for each in found])
    for each, told in zip(found, sections, strict=True):
        points = each.section.points
        told["oracle"] = [allocated(each.pools, each.section.flops(point)) for point in points]
        told["frontier"] = [Setting(each.section, point) in frontier for point in points]
        told["jobs_per_second"] = each.rate
        del told["pool"], told["saturation"]  # these are about recorded runs
    place = chosen and [each.section for each in found].index(chosen.section)
    return {"banks": sections, "cheapest": chosen and {"bank": place, "cell": chosen.point.cell.model_dump()}}


class _Judge:
    """A problem's grader, which says of no answer twice whether it is right."""

    def __init__(self, suite: Suite, item: Item) -> None:
        self.item, self._suite = item, suite
        self.slow: set[str] = set()
        self._known: dict[str, bool] = {}

    def __call__(self, answer: str) -> bool:
        if answer not in self._known:
            self._known[answer] = self._right(answer)
        return self._known[answer]

    def _right(self, answer: str) -> bool:
        if self._suite.quick:  # at once: an event loop would take longer than such a grader
            return self._suite.right(self.item, answer)
        try:
            return asyncio.run(graded(self._suite, self.item, answer))
        except TimeoutError:
            self.slow.add(answer)
            return False


def _pooled(stage: Stage, judge: _Judge) -> Pooled:
    """Counted by different samples: many say the same, and most others cost the same."""
    deck, kind = stage.deck, judge.item.problem.kind
    lengths, texts = Counter(deck.lengths), Counter(zip(deck.texts, deck.finishes, strict=True))
    first, further = (
        sum(n * stage.tariff.spend(deck.usage(tokens, 0.0, first)).flops for tokens, n in lengths.items())
        / len(deck.keys)
        for first in (True, False)
    )
    answers = ((kind.extract(text, finish == "stop"), n) for (text, finish), n in texts.items())
    right = sum(n for answer, n in answers if answer is not None and judge(answer))
    return Pooled(len(deck.keys), right, first, further)


def _row(cell: Cell, seed: int, judge: _Judge, told: Rehearsed, priced: bool) -> Row:
    answer = told.answer
    stated = answer.text if answer and answer.extracted else None
    voted = [vote.answer for vote in answer.votes] if answer else []
    candidates = dict.fromkeys([*voted] if stated is None else [stated, *voted])
    covered = any(judge(each) for each in candidates)
    return Row(
        cell=cell,
        seed=seed,
        problem=judge.item.problem.id,
        group=judge.item.group,
        right=stated is not None and judge(stated),
        covered=covered,
        answer=stated,
        error=f"the grader took more than {GRADING_SECONDS:g} s" if judge.slow & candidates.keys() else None,
        stop=told.stop,
        tokens=int(told.spent.tokens),
        prompt_tokens=told.usage.prompt_tokens,
        cached_tokens=told.usage.cached_tokens,
        verifier_tokens=told.read,
        seconds=told.usage.seconds,
        usd=told.spent.usd if priced else None,
        flops=told.spent.flops,
        kv_token_steps=told.usage.kv_token_steps,
        finished=told.finished,
        truncated=told.truncated,
        failed=0,
        latency=told.seconds,
    )
