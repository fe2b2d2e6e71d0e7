"""From rows to what people read: curves, tables, and one HTML page that holds it all."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path as File
from typing import NamedTuple

import numpy as np

from evals.records import ROWS, SAMPLES, Cell, Row, Sample, Settings, key_of, read_settings
from evals.statistics import (
    Estimate,
    Saturation,
    majority_at_k,
    mean_by_problem,
    paired_difference,
    pass_at_k,
    regret,
    saturation,
)
from tts.errors import UsageError
from tts.lines import read_lines

Values = dict[str, list[float]]
"""One value per seed, by problem."""


class Resident(NamedTuple):
    """Tokens in the KV cache for the candidates of a selection, and for those that were kept: means over selections,
    then over problems. Independent samples know neither selections nor barriers."""

    before: float
    after: float
    idle: float
    """The share of time that continuations waited for the slowest of their batch, between 0 and 1."""


class Point(NamedTuple):
    """One cell of a curve: what it cost on average, and what it achieved.

    `compute` is the total FLOPs of all models, in policy-token equivalents: divided by twice the policy's weights.
    `difference` is against the baseline's curve at the same compute, None where the baseline has none there.
    """

    cell: Cell
    problems: int
    seeds: int
    accuracy: Estimate
    difference: Estimate | None
    compute: float
    coverage: float
    tokens: float
    prompt_tokens: float
    cached_tokens: float
    verifier_tokens: float
    seconds: float
    usd: float | None
    kv_token_steps: float
    kv: Resident | None
    truncated: float
    errors: int
    latency: tuple[float, float] | None
    """Median and 95th percentile of the seconds from question to answer, where they are known."""

    @property
    def gap(self) -> float:
        """What selection leaves lying: covered, and not chosen."""
        return self.coverage - self.accuracy.mean


class PoolPoint(NamedTuple):
    """What k independent samples hold, and what a plain vote makes of them."""

    k: int
    passed: Estimate
    majority: Estimate


class Section:
    """All rows of one suite, split, model and way of sampling."""

    def __init__(
        self, settings: Settings, rows: Iterable[Row], samples: Iterable[Sample], baseline: str | None
    ) -> None:
        self.settings = settings
        self.rows = list({key_of(row): row for row in rows}.values())
        self.samples = list({(s.problem, s.seed, s.number): s for s in samples}.values())
        if not self.rows:
            raise UsageError(f"there is nothing to report of {settings.suite}: the run has no rows yet")
        self.methods = list(dict.fromkeys(row.cell.method for row in self.rows))
        if baseline is not None and baseline not in self.methods:
            raise no_baseline(baseline, self.methods)
        self.baseline = baseline or self.methods[0]

    @property
    def title(self) -> str:
        return f"{self.settings.suite} ({self.settings.split}), {self.settings.model.name}"

    @property
    def errors(self) -> list[Row]:
        return [row for row in self.rows if row.error is not None]

    @property
    def unfinished(self) -> dict[Cell, str]:
        """How many problems and seeds a cell has of those that another has: their accuracies are not comparable."""
        tried = {cell: {(row.seed, row.problem) for row in rows} for cell, rows in self._cells.items()}
        every = set().union(*tried.values())
        return {cell: f"{len(has)} of {len(every)}" for cell, has in tried.items() if has != every}

    @cached_property
    def points(self) -> list[Point]:
        """Every cell, each method's from the cheapest up."""
        found = [self._point(cell, rows) for cell, rows in self._cells.items()]
        return sorted(found, key=lambda p: (self.methods.index(p.cell.method), p.cell.unit, p.cell.amount))

    def curve(self, method: str) -> list[Point]:
        return sorted((p for p in self.points if p.cell.method == method), key=lambda p: p.compute)

    @cached_property
    def groups(self) -> dict[str, dict[Cell, Estimate]]:
        """Accuracy by difficulty, the easiest first."""
        easy = {name: _mean(r.right for r in self.rows if r.group == name) for name in {r.group for r in self.rows}}
        names = sorted(easy.keys() - {""}, key=lambda name: (-easy[name], name))
        return {
            name: {
                cell: mean_by_problem(right_by_problem(r for r in rows if r.group == name))
                for cell, rows in self._cells.items()
            }
            for name in names
        }

    @cached_property
    def pool(self) -> list[PoolPoint]:
        """pass@k and maj@k for k = 1, 2, 4, …, from the samples that every problem has: the first so many of each.

        How many a budget pays for depends on how long they are, so taking all there are would favour short ones.
        """
        pools: dict[tuple[str, int], dict[int, Sample]] = defaultdict(dict)
        for sample in self.samples:
            pools[sample.problem, sample.seed][sample.number] = sample
        if not pools:
            return []
        shared = min(next(i for i in range(len(pool) + 1) if i not in pool) for pool in pools.values())
        ks = [2**i for i in range(shared.bit_length())]
        firsts = {key: [pool[i] for i in range(shared)] for key, pool in pools.items()}
        return [PoolPoint(k, *(_pooled(firsts, k, each) for each in (_passed, _majority))) for k in ks]

    @property
    def saturation(self) -> Saturation | None:
        """How coverage saturates with the number of samples."""
        return saturation([p.k for p in self.pool], [p.passed.mean for p in self.pool])

    def regret(self, method: str) -> float:
        """One minus the normalised area under a method's curve, up to the largest compute of any method."""
        curve, most = self.curve(method), max(point.compute for point in self.points)
        xs, ys = [p.compute for p in curve], [p.accuracy.mean for p in curve]
        return regret([*xs, most], [*ys, ys[-1]]) if xs[-1] < most else regret(xs, ys)

    @cached_property
    def _cells(self) -> dict[Cell, list[Row]]:
        cells: dict[Cell, list[Row]] = defaultdict(list)
        for row in self.rows:
            cells[row.cell].append(row)
        return dict(cells)

    def _compute(self, rows: Sequence[Row]) -> float:
        return _mean(row.flops for row in rows) / (2 * self.settings.model.parameters)

    def _point(self, cell: Cell, rows: list[Row]) -> Point:
        right = right_by_problem(rows)
        prices = [row.usd for row in rows if row.usd is not None]
        return Point(
            cell=cell,
            problems=len(right),
            seeds=len({row.seed for row in rows}),
            accuracy=mean_by_problem(right),
            difference=self._difference(cell),
            compute=self._compute(rows),
            coverage=_mean(row.covered for row in rows),
            tokens=_mean(row.tokens for row in rows),
            prompt_tokens=_mean(row.prompt_tokens for row in rows),
            cached_tokens=_mean(row.cached_tokens for row in rows),
            verifier_tokens=_mean(row.verifier_tokens for row in rows),
            seconds=_mean(row.seconds for row in rows),
            usd=_mean(prices) if len(prices) == len(rows) else None,
            kv_token_steps=_mean(row.kv_token_steps for row in rows),
            kv=_resident(rows),
            truncated=_mean(row.truncated for row in rows),
            errors=sum(row.error is not None for row in rows),
            latency=_latency(rows),
        )

    def flops(self, point: Point) -> float:
        """What a point cost on average, in FLOPs."""
        return point.compute * 2 * self.settings.model.parameters

    def paired(self, cell: Cell, control: str) -> tuple[Values, Values] | None:
        """Whether each problem was solved in a cell, and by the control at the same compute; None where there is no
        such cell, or where the control's curve does not reach there."""
        rows = self._cells.get(cell)
        theirs = self.values_at(control, _mean(row.flops for row in rows)) if rows else None
        return (right_by_problem(rows), theirs) if rows and theirs else None

    def _difference(self, cell: Cell) -> Estimate | None:
        if cell.method == self.baseline:
            return None
        pair = self.paired(cell, self.baseline)
        return paired_difference(*pair) if pair else None

    def values_at(self, method: str, flops: float) -> Values | None:
        """What a method would have got on each problem for that many FLOPs on average: a mixture of its two nearest
        cells, straight between them in the logarithm of FLOPs; None where its curve does not reach there."""
        cells = {c: rows for c, rows in self._cells.items() if c.method == method}
        curve = [(_mean(row.flops for row in rows), right_by_problem(rows)) for rows in cells.values()]
        curve.sort(key=lambda each: each[0])
        below = [each for each in curve if each[0] <= flops * (1 + 1e-9)]
        above = [each for each in curve if each[0] >= flops * (1 - 1e-9)]
        if not below or not above:
            return None
        (low, cheap), (high, dear) = below[-1], above[0]
        share = math.log(flops / low) / math.log(high / low) if high > low else 0.0
        return {p: [(1 - share) * _mean(cheap[p]) + share * _mean(dear[p])] for p in cheap if p in dear}


def read_sections(folders: Sequence[File], baseline: str | None = None) -> list[Section]:
    """The runs in some folders; those with the same settings are one."""
    gathered: dict[str, tuple[Settings, list[Row], list[Sample]]] = {}
    for folder in folders:
        settings = read_settings(folder)
        key = settings.model_copy(update={"code": ""}).model_dump_json()
        _, rows, samples = gathered.setdefault(key, (settings, [], []))
        rows += read_lines(folder / ROWS, Row)
        samples += read_lines(folder / SAMPLES, Sample)
    return [Section(*each, baseline) for each in gathered.values()]


def as_object(sections: Sequence[Section]) -> list[dict[str, object]]:
    """The figures as JSON, for scripts."""
    return [
        {
            "settings": json.loads(section.settings.model_dump_json()),
            "baseline": section.baseline,
            "points": [_point_object(point) for point in section.points],
            "pool": [{"k": p.k, "pass": p.passed._asdict(), "majority": p.majority._asdict()} for p in section.pool],
            "regret": {method: section.regret(method) for method in section.methods},
            "saturation": section.saturation and section.saturation._asdict(),
            "errors": [{"problem": r.problem, "cell": str(r.cell), "error": r.error} for r in section.errors],
        }
        for section in sections
    ]


def no_baseline(name: str, methods: Iterable[str]) -> UsageError:
    """One line for a baseline that is none of the methods."""
    return UsageError(f"no method {name!r} to compare with; there are {', '.join(methods)}")


def _point_object(point: Point) -> dict[str, object]:
    flat: dict[str, object] = point._asdict()
    return {
        **flat,
        "cell": point.cell.model_dump(),
        "accuracy": point.accuracy._asdict(),
        "difference": point.difference and point.difference._asdict(),
        "kv": point.kv and point.kv._asdict(),
    }


def right_by_problem(rows: Iterable[Row]) -> Values:
    """Whether each problem was solved, as a number."""
    return values_by_problem(rows, lambda row: float(row.right))


def values_by_problem(rows: Iterable[Row], of: Callable[[Row], float]) -> Values:
    """What a function says of each row, by problem."""
    values: Values = defaultdict(list)
    for row in rows:
        values[row.problem].append(of(row))
    return dict(values)


def _latency(rows: Iterable[Row]) -> tuple[float, float] | None:
    known = [row.latency for row in rows if row.latency is not None]
    if not known:
        return None
    half, most = np.quantile(known, (0.5, 0.95))
    return float(half), float(most)


def _resident(rows: Iterable[Row]) -> Resident | None:
    means = [(row.resident / row.selections, row.kept / row.selections, row.idle) for row in rows if row.selections]
    return Resident(*(_mean(each) for each in zip(*means, strict=True))) if means else None


def _passed(samples: Sequence[Sample], k: int) -> float:
    return pass_at_k(len(samples), sum(sample.right for sample in samples), k)


def _majority(samples: Sequence[Sample], k: int) -> float:
    return majority_at_k([s.answer for s in samples], [s.right for s in samples], k)


def _pooled(
    pools: Mapping[tuple[str, int], Sequence[Sample]], k: int, of: Callable[[Sequence[Sample], int], float]
) -> Estimate:
    values: Values = defaultdict(list)
    for (problem, _), samples in pools.items():
        values[problem].append(of(samples, k))
    return mean_by_problem(values)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan
