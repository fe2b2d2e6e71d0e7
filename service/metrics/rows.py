"""Rows of `/metrics`: what grows in Redis is kept under the very words in which Prometheus reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache

from service.metrics.table import METRICS, Metric

BY_NAME = {metric.name: metric for metric in METRICS}
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
MOST = 100
"""Characters of a label."""


@lru_cache(maxsize=65_536)
def row(name: str, *labels: str, le: str | None = None) -> str:
    """A metric's row for these values of its labels, in the table's order. Of a histogram `name` has its suffix."""
    metric = BY_NAME.get(name) or BY_NAME[name.rpartition("_")[0]]
    pairs = [*zip(metric.labels, labels, strict=True), *([("le", le)] if le else [])]
    inner = ",".join(f'{label}="{value[:MOST].translate(_ESCAPED)}"' for label, value in pairs)
    return f"{name}{{{inner}}}" if inner else name


class Increments(defaultdict[str, float]):
    """How much rows are to grow."""

    def __init__(self) -> None:
        super().__init__(float)

    def add(self, name: str, *labels: str, by: float = 1) -> None:
        """Count something; nothing is no row."""
        if by:
            self[row(name, *labels)] += by

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Enter a value into a histogram: buckets hold what is below their bounds, as Prometheus has them."""
        for bound in reversed(BY_NAME[name].buckets):
            if value > bound:
                break
            self[row(f"{name}_bucket", *labels, le=f"{bound:g}")] += 1
        self[row(f"{name}_bucket", *labels, le="+Inf")] += 1
        self[row(f"{name}_count", *labels)] += 1
        self[row(f"{name}_sum", *labels)] += value

    def pairs(self) -> list[str | float]:
        """Rows and amounts, one after the other, as scripts take them."""
        return [part for row, amount in self.items() for part in (row, f"{amount:.17g}")]


def page(rows: Mapping[str, str]) -> str:
    """All rows as Prometheus reads them: metric by metric, buckets in their order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, amount in rows.items():
        found[_owner(name).name].append(f"{name} {amount}")
    lines = []
    for metric in METRICS:
        if metric.name in found:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines += sorted(found[metric.name], key=_place) if metric.buckets else sorted(found[metric.name])
    return "\n".join([*lines, ""])


def _owner(row: str) -> Metric:
    """The metric that a row belongs to."""
    name = row.partition("{")[0]
    return BY_NAME.get(name) or BY_NAME[name.rpartition("_")[0]]


def _place(line: str) -> tuple[str, int, float]:
    """Where a row of a histogram stands: with those of the same labels, buckets first and by their bounds."""
    name, _, rest = line.rpartition(" ")[0].partition("{")
    inner, _, bound = rest.rstrip("}").rpartition('le="')
    if name.endswith("_bucket"):
        return inner.rstrip(","), 0, float(bound.rstrip('"'))
    return rest.rstrip("}"), 1 + name.endswith("_sum"), 0.0
