"""What all dashboards have in common: variables, range, links, and how panels are put on them."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.table import Options as TableOptions

from service.metrics.dashboards.panels import SOURCE, Panel

TAG = "tts"


def _variable(label: str, metric: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def page(name: str, title: str, about: str) -> dashboard.Dashboard:
    """An empty dashboard: its variables, its range, and the way to the others, which takes all of that along."""
    return (
        dashboard.Dashboard(title)
        .uid(f"tts-{name}")
        .description(about)
        .tags([TAG])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("tenant", "tts_jobs_submitted_total"))
        .with_variable(_variable("strategy", "tts_jobs_ended_total"))
        .with_variable(_variable("model", "tts_completion_tokens_total"))
        .link(
            dashboard.DashboardLink("Dashboards of test-time scaling")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
    )


def finished(dashboard_: dashboard.Dashboard, sections: dict[str, list[Panel]]) -> models.Dashboard:
    """With its panels, under a heading each, numbered as they come."""
    number = 0
    for heading, panels in sections.items():
        number += 1
        dashboard_ = dashboard_.with_row(dashboard.Row(heading).id(number))
        for panel in panels:
            number += 1
            dashboard_ = dashboard_.with_panel(panel.id(number))
    built = dashboard_.build()
    _without_odd_defaults(built)
    return built


def _without_odd_defaults(built: models.Dashboard) -> None:
    """Take away what the SDK sets and Grafana's schema does not know, or what it has no word for not setting."""
    for link in built.links or ():
        link.placement = None  # type: ignore[assignment]  # else it is hidden in a menu
    for variable in built.templating.list_val or () if built.templating else ():
        variable.auto = variable.auto_min = variable.auto_count = None
    for panel in built.panels or ():
        if isinstance(options := getattr(panel, "options", None), TableOptions):
            options.footer = None
