"""One HTML page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from evals.plots import as_svg, draw
from evals.report import Section
from evals.statistics import Estimate


def page(sections: Sequence[Section]) -> str:
    """The whole report."""
    environment = Environment(loader=PackageLoader("evals"), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(percent=percent, signed=signed, interval=interval, amount=amount)
    template = environment.get_template("report.html.jinja")
    return template.render(sections=[(section, as_svg(draw(section))) for section in sections])


def percent(share: float) -> str:
    """A share, to a tenth of a point."""
    return f"{share:.1%}"


def interval(estimate: Estimate) -> str:
    """The ends of an interval."""
    return f"{estimate.low:.1%} to {estimate.high:.1%}"


def signed(estimate: Estimate | None) -> str:
    """A paired difference in points, with its interval."""
    if estimate is None:
        return "–"
    return f"{100 * estimate.mean:+.1f} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


def amount(number: float | None) -> str:
    """A mean in as many digits as mean something."""
    return "–" if number is None else f"{number:,.0f}" if number >= 100 else f"{number:,.3g}"
