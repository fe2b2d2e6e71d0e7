"""Curves: accuracy against compute, and what independent samples hold."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from evals.bounds import allocated
from evals.report import Section
from evals.whatif import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STYLES = ("-", "--", ":")
LONGEST = 40
"""Characters of a method's name in a legend."""
FEW = 8
"""Methods whose names fit inside a panel."""


def draw(section: Section) -> Figure:
    """One row of panels: the curves, and pass@k beside maj@k where samples are independent."""
    figure, axes = _panels(2 if len(section.pool) > 1 else 1)
    _curves(axes[0], section)
    if len(axes) == 2:
        _pool(axes[1], section)
    figure.suptitle(section.title)
    return figure


def draw_whatif(found: Findings) -> Figure:
    """Accuracy against compute, under what an oracle could reach; and against the time that nearly all jobs keep."""
    section = found.section
    figure, (left, right) = _panels(2)
    _curves(left, section)
    spent = sorted({section.flops(point) for point in section.points})
    xs = [flops / (2 * section.settings.model.parameters) for flops in spent]
    left.plot(xs, [allocated(found.pools, flops) for flops in spent], "k:", label="oracle")
    left.legend(frameon=False)
    for i, method in enumerate(section.methods):
        points = sorted((p for p in section.curve(method) if p.latency), key=lambda p: p.latency or (0.0, 0.0))
        _line(right, [p.latency[1] for p in points if p.latency], [p.accuracy for p in points], method, i)
    right.set(xlabel="seconds within which 95 % of jobs end", title="what waiting buys")
    if all(point.latency and point.latency[1] for point in section.points):
        _doublings(right)
    _finish(right)
    figure.suptitle(section.title)
    return figure


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "tts"  # the same rows, the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, count, figsize=(6.4 * count, 4.4), squeeze=False, layout="constrained")
    pyplot.close(figure)
    return figure, axes[0]


def _curves(axes: Axes, section: Section) -> None:
    for i, method in enumerate(section.methods):
        points = section.curve(method)
        xs = [point.compute for point in points]
        _line(axes, xs, [point.accuracy for point in points], method, i)
    xlabel = "compute: total FLOPs in policy-token equivalents"
    axes.set(xlabel=xlabel, ylabel="accuracy", title="what compute buys")
    _doublings(axes)
    _finish(axes)


def _pool(axes: Axes, section: Section) -> None:
    ks = [point.k for point in section.pool]
    _line(axes, ks, [point.passed for point in section.pool], "pass@k", 7)
    _line(axes, ks, [point.majority for point in section.pool], "maj@k", 8)
    axes.set(xlabel="k independent samples", title="coverage, and what a vote makes of it")
    _doublings(axes)
    _finish(axes)


def _line(axes: Axes, xs: Sequence[float], estimates: Sequence[Any], label: str, color: int) -> None:
    style = STYLES[color // 10 % len(STYLES)]
    axes.plot(xs, [e.mean for e in estimates], style, marker="o", label=shortened(label), color=f"C{color % 10}")
    axes.fill_between(xs, [e.low for e in estimates], [e.high for e in estimates], alpha=0.15, color=f"C{color % 10}")


def shortened(label: str) -> str:
    """A method's name, without its middle where it would take the panel's place."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST // 2]}…{label[-LONGEST // 2 + 1 :]}"


def _doublings(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=12))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=30)


def _finish(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.3)
    if len(axes.get_legend_handles_labels()[1]) > FEW:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
    else:
        axes.legend(frameon=False)


def write(figure: Figure, file: File) -> None:
    """The figure as PNG and as SVG."""
    figure.savefig(file.with_suffix(".png"), dpi=150)
    figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element, to stand inside a page."""
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]
