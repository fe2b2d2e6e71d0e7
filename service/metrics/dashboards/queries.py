"""Queries, put together: what a metric of ours needs around it is written once, here.

Our counters lie in Redis, and every API process shows all of them: where several are scraped, a sum would count each
of them several times. So whatever is asked of a metric of ours, its copies are made one first (`_once`), rates before
that: `sum by (tenant) (max without (instance, pod) (rate(…)))`. What Prometheus calls a `job` is one deployment.
"""

from __future__ import annotations

from collections.abc import Collection

from service.metrics.table import METRICS

WINDOW = "$__rate_interval"
SHOWN = "$__range"
VARIABLES = ("tenant", "strategy", "model")
"""Labels that every dashboard can be narrowed by."""
COPIES = "instance, pod"
"""What tells one API process from the next, and nothing else."""
RANKS = "tp_rank, pp_rank, moe_ep_rank, pid"
"""Processes of one SGLang server that say the same of the same requests."""
_TABLE = {metric.name: metric for metric in METRICS}


def select(name: str, narrowed: Collection[str] = VARIABLES, **where: str) -> str:
    """A metric of ours, narrowed by those variables of the dashboard whose labels it has."""
    metric = _TABLE[name.removesuffix("_bucket") if name.endswith("_bucket") else name]
    assert set(where) <= {*metric.labels}, f"{name} has no label {where}"
    shown = [f'{label}=~"${label}"' for label in metric.labels if label in narrowed and label not in where]
    given = [f'{label}=~"{value}"' for label, value in where.items()]
    return f"{name}{{{', '.join([*shown, *given])}}}" if shown or given else name


def _once(of: str) -> str:
    return f"max without ({COPIES}) ({of})"


def _by(how: str, labels: str, of: str) -> str:
    return f"{how} by ({labels}) ({of})" if labels else f"{how} ({of})"


def rate(name: str, by: str = "", narrowed: Collection[str] = VARIABLES, **where: str) -> str:
    """How fast a counter grows, a second."""
    return _by("sum", by, _once(f"rate({select(name, narrowed, **where)}[{WINDOW}])"))


def grown(name: str, by: str = "", **where: str) -> str:
    """How much a counter grew in the time that is shown."""
    return _by("sum", by, _once(f"increase({select(name, **where)}[{SHOWN}])"))


def grown_quantile(part: float, name: str) -> str:
    """So large a share of a histogram's observations in the time that is shown was no larger than this."""
    return f"histogram_quantile({part}, {grown(f'{name}_bucket', 'le')})"


def happened(name: str) -> str:
    """How often something rare happened in the time that is shown. A counter appears when it is first counted up:
    `increase` would not see that, and makes fractions of what it sees."""
    before, since = (f"(sum ({_once(each)}) or vector(0))" for each in (f"{select(name)} offset {SHOWN}", select(name)))
    return f"{since} - {before}"


def now(name: str, by: str = "", how: str = "sum") -> str:
    """A gauge, added up (or what `how` says) over the labels that are not named."""
    return _by(how, by, _once(select(name)))


def quantile(share: float, name: str, by: str) -> str:
    """So large a share of a histogram's observations was no larger than this."""
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', f'{by}, le')})"


def ratio(part: str, whole: str) -> str:
    """A quotient; nothing at all where there is nothing to divide by."""
    return f"{part} / ({whole} > 0)"


def share(part: str, whole: str) -> str:
    """A quotient whose part is nothing until it happens for the first time."""
    return ratio(f"({part} or {whole} * 0)", whole)


def served(name: str, how: str = "sum", by: str = "model_name, instance") -> str:
    """A gauge of SGLang servers: ranks say the same, and replicas of data parallelism each have their own."""
    return _by(how, by, f"max without ({RANKS}) ({name})")


def served_rate(name: str, by: str = "model_name, instance", **where: str) -> str:
    """How fast a counter of SGLang servers grows, a second."""
    given = ", ".join(f'{label}="{value}"' for label, value in where.items())
    return _by("sum", by, f"rate({name}{f'{{{given}}}' if given else ''}[{WINDOW}])")


def served_quantile(share: float, name: str, by: str = "model_name") -> str:
    """Of a histogram of SGLang servers."""
    return f"histogram_quantile({share}, {served_rate(f'{name}_bucket', f'{by}, le')})"
