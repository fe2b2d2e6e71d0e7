"""What the page for those who run it says of watching: every metric, dashboard and alert, as they are."""

from __future__ import annotations

import re

import pytest

from service.metrics.table import METRICS
from service.observing import DASHBOARDS
from tests.service.observe.prometheus import dashboards, panels
from tests.service.test_deploy import OPERATIONS, ROOT, table

MOST = 200_000
"""Bytes of a picture."""


def test_the_page_lists_every_metric() -> None:
    known = [
        [f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help]
        for metric in METRICS
    ]
    assert table(OPERATIONS, "\n## Metrics\n") == known, "\n".join(f"| {' | '.join(row)} |" for row in known)


@pytest.mark.parametrize("name", dashboards())
def test_the_page_shows_every_dashboard(name: str) -> None:
    assert f"![{name.capitalize()}](pictures/{name}.png)" in OPERATIONS
    assert 10_000 < (ROOT / "docs" / "pictures" / f"{name}.png").stat().st_size < MOST


def test_panels_that_the_page_names_are_there() -> None:
    told = re.findall(r"(?<!\*)\*([A-Z][^*\n]*)\*(?!\*)", OPERATIONS.partition("\n## Watching it\n")[2])
    titles = [panel["title"] for dashboard in dashboards().values() for panel in panels(dashboard)]
    assert len(told) > 20
    for each in told:
        assert any(title.startswith(each) or each in title for title in [*titles, "Targets"]), each


def test_the_dashboards_lie_where_the_page_says() -> None:
    assert f"../{DASHBOARDS.relative_to(ROOT)}" in OPERATIONS
