"""The few kinds of panels that there are."""

from __future__ import annotations

from typing import NamedTuple

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    BigValueGraphMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TableAutoCellOptions,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
TOKENS, TOKENS_A_SECOND, FLOPS = "si:tok", "si:tok/s", "si:FLOP"
DOLLARS, SHARE, SECONDS, COUNT, A_SECOND = "currencyUSD", "percentunit", "s", "short", "cps"
Panel = timeseries.Panel | stat.Panel | bargauge.Panel | table.Panel
SLOW = "5m"
"""The least interval of panels whose points look back for longer."""
_COLORS = ("green", "orange", "red")


class Query(NamedTuple):
    """What is asked, and how a series of it is called: `{{label}}` is the label's value."""

    of: str
    called: str = ""


class Limits(NamedTuple):
    """From where on a value is orange, and red; falling ones the other way round."""

    orange: float
    red: float
    falling: bool = False


def _target(query: Query, number: int, *, instant: bool = False, rows: bool = False) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery().expr(query.of).ref_id(chr(ord("A") + number)).legend_format(query.called or "__auto")
    )
    if rows:
        target = target.format(PromQueryFormat.TABLE)
    return target.instant() if instant else target.range()


def _thresholds(limits: Limits | None) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=_COLORS[0])]
    if limits:
        colors = _COLORS if not limits.falling else _COLORS[::-1]
        ends = sorted((limits.orange, limits.red))
        steps = [models.Threshold(value=end, color=color) for end, color in zip((None, *ends), colors, strict=True)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def series(
    title: str,
    about: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    most: float | None = None,
    limits: Limits | None = None,
    slow: bool = False,
) -> timeseries.Panel:
    """Lines over time, the largest first in the legend; stacked where they are parts of a whole.

    What is `slow` says something of jobs, of which there are few a minute: each point looks back for longer.
    """
    panel = (
        timeseries.Panel().title(title).description(about).datasource(SOURCE).unit(unit).min(0).span(width).height(8)
    )
    panel = panel.thresholds(_thresholds(limits)).fill_opacity(30 if stacked else 8).line_width(1)
    panel = panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .calcs(["mean", "lastNotNull"])
        .sort_by("Mean")
        .sort_desc(True)
    ).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if slow:
        panel = panel.interval(SLOW)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if most is not None:
        panel = panel.max(most)
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(query, number))
    return panel


def figure(
    title: str, about: str, unit: str, query: Query, *, width: int = 4, limits: Limits | None = None, none: str = "–"
) -> stat.Panel:
    """One number, as it is now: the last one that there was may be hours old."""
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .no_value(none)
        .span(width)
        .height(4)
        .thresholds(_thresholds(limits))
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query, 0, instant=True))
    )


def bars(
    title: str,
    about: str,
    unit: str,
    query: Query,
    *,
    width: int = 8,
    most: float | None = None,
    limits: Limits | None = None,
) -> bargauge.Panel:
    """One bar for each, as it is now."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .thresholds(_thresholds(limits))
        .display_mode(BarGaugeDisplayMode.BASIC)
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query, 0, instant=True))
    )
    return panel if most is None else panel.max(most)


def rows(title: str, about: str, label: str, columns: dict[str, tuple[str, str]], *, width: int = 12) -> table.Panel:
    """A table with a row for each value of a label; columns by their names, with their units and queries."""
    panel = table.Panel().title(title).description(about).datasource(SOURCE).span(width).height(8)
    panel = panel.cell_options(TableAutoCellOptions())
    for number, (_, of) in enumerate(columns.values()):
        panel = panel.with_target(_target(Query(of), number, instant=True, rows=True))
    values = [f"Value #{chr(ord('A') + number)}" for number in range(len(columns))]
    panel = panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {name: place for place, name in enumerate((label, *values))},
                "renameByName": dict(zip(values, columns, strict=True)),
            },
        )
    )
    for name, (unit, _) in columns.items():
        panel = panel.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return panel
