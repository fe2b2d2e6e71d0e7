"""Rows of `/metrics`: what grows in Redis is kept under the very words in which Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate

from service.metrics.table import METRICS, Metric

BY_NAME = {metric.name: metric for metric in METRICS}
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
MOST = 100
"""Characters of a label."""


@lru_cache(maxsize=65_536)
def row(name: str, *labels: str, le: str | None = None) -> str:
    """A metric's row for these values of its labels, in the table's order. Of a histogram `name` has its suffix."""
    metric = _owner(name)
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

    def show(self, name: str, *labels: str) -> None:
        """Have a row that is there before it grows: of one that appears only then, Prometheus does not see the first
        step."""
        self[row(name, *labels)] += 0

    def observe(self, name: str, *labels: str, value: float) -> None:
        """Enter a value into a histogram."""
        bounds = BY_NAME[name].buckets
        counts = [0] * (len(bounds) + 1)
        counts[bisect_left(bounds, value)] = 1
        self.enter(name, *labels, counts=counts, total=value)

    def enter(self, name: str, *labels: str, counts: Sequence[int], total: float) -> None:
        """Enter values into a histogram, of which so many lie between one bound and the next, and so much in all."""
        bounds = [*map("{:g}".format, BY_NAME[name].buckets), "+Inf"]
        for bound, below in zip(bounds, accumulate(counts), strict=True):
            if below:  # a bucket holds all that is below its bound, as Prometheus has them
                self[row(f"{name}_bucket", *labels, le=bound)] += below
        if any(counts):
            self[row(f"{name}_count", *labels)] += sum(counts)
            self[row(f"{name}_sum", *labels)] += total

    def pairs(self) -> list[str | float]:
        """Rows and amounts, one after the other, as scripts take them."""
        return [part for row, amount in self.items() for part in (row, f"{amount:.17g}")]


def page(rows: Iterable[tuple[str, Iterable[tuple[bytes, bytes]]]]) -> bytes:
    """All rows as Prometheus reads them, metric by metric; they come by their names. There may be tens of thousands:
    they stay bytes."""
    found: defaultdict[str, list[bytes]] = defaultdict(list)
    for name, each in rows:
        found[_owner(name).name] += [b"%b %b" % pair for pair in each]
    return b"".join(_shown(metric, lines) for metric in METRICS if (lines := found.get(metric.name)))


def names() -> list[str]:
    """The names of all rows that grow."""
    return [
        metric.name + suffix
        for metric in METRICS
        if metric.kind != "gauge"
        for suffix in (("_bucket", "_count", "_sum") if metric.buckets else ("",))
    ]


def _owner(name: str) -> Metric:
    """The metric that rows of this name belong to."""
    return BY_NAME.get(name) or BY_NAME[name.rpartition("_")[0]]


def _shown(metric: Metric, lines: list[bytes]) -> bytes:
    head = f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n".encode()
    if metric.buckets:
        lines = sorted(lines, key=_place)
    return head + b"\n".join(lines) + b"\n"


def _place(line: bytes) -> tuple[bytes, int, float]:
    """Where a row of a histogram stands: with those of the same labels, buckets first and by their bounds."""
    name, _, rest = line.rpartition(b" ")[0].partition(b"{")
    inner, _, bound = rest.rstrip(b"}").rpartition(b'le="')
    if name.endswith(b"_bucket"):
        return inner.rstrip(b","), 0, float(bound.rstrip(b'"'))
    return rest.rstrip(b"}"), 1 + name.endswith(b"_sum"), 0.0
