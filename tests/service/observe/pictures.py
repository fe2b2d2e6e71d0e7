"""Pictures of the dashboards: their own queries, asked of a Prometheus and drawn in their own places.

    python -m tests.service.observe.pictures http://127.0.0.1:9090 --minutes 10

They are no screenshots of Grafana: what is drawn is what its panels ask for, in `docs/pictures/NAME.png`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as File
from typing import Any

import click
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tests.service.observe.prometheus import Asked, Reader, Series, asked_by, dashboards
from tests.service.observe.spelling import spelled

ROOT = File(__file__).parents[3]
PICTURES = ROOT / "docs" / "pictures"
WIDTH, ROW = 15.0, 0.27
"""Inches: of a dashboard, and of one row of its grid."""
DOTS, SHADES = 100, 256
COLUMNS = 24
LINES = 6
"""In a legend, at most; Grafana's scrolls."""
COLORS = ("#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#e0b400", "#37872d", "#8f3bb8", "#5794f2", "#ff9830")
MARKS = {"green": "#56a64b", "orange": "#e0752d", "red": "#e02f44"}


def named(called: str, labels: Mapping[str, str]) -> str:
    """A series as the legend calls it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), called) if called != "__auto" else ""


class Page:
    """One dashboard on one figure."""

    def __init__(self, dashboard: Mapping[str, Any], reader: Reader, seconds: float, step: float) -> None:
        self._dashboard, self._reader = dashboard, reader
        self._seconds, self._step, self._end = seconds, step, time.time()
        self._rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
        self._figure: Figure = plt.figure(figsize=(WIDTH, self._rows * ROW), facecolor="#f4f5f5")

    def drawn(self) -> Figure:
        kinds: dict[str, Callable[[Mapping[str, Any], Axes], None]] = {
            "row": self._heading,
            "timeseries": self._lines,
            "stat": self._figure_of,
            "bargauge": self._bars,
            "table": self._table,
        }
        for panel in self._dashboard["panels"]:
            kinds[panel["type"]](panel, self._place(panel))
        return self._figure

    def _place(self, panel: Mapping[str, Any]) -> Axes:
        """The panel's rectangle, white, with its title; and axes within it."""
        grid, heading = panel["gridPos"], panel["type"] == "row"
        left, width = grid["x"] / COLUMNS, grid["w"] / COLUMNS
        bottom, height = 1 - (grid["y"] + grid["h"]) / self._rows, grid["h"] / self._rows
        inch = 1 / (self._rows * ROW)
        if heading:
            return self._figure.add_axes((left, bottom, width, height))
        back = self._figure.add_axes((left + 0.002, bottom + 0.03 * inch, width - 0.004, height - 0.06 * inch))
        back.set(xticks=[], yticks=[])
        back.spines[:].set_color("#d8d9da")
        back.text(
            0.005 / width * 0.4, 1 - 0.1 * inch / height, panel["title"], fontsize=8.5, fontweight="bold", va="top"
        )
        room = {"timeseries": (0.055, 0.62), "bargauge": (0.09, 0.15)}.get(panel["type"], (0.01, 0.1))
        return self._figure.add_axes(
            (left + room[0], bottom + room[1] * inch, width - room[0] - 0.012, height - (room[1] + 0.32) * inch)
        )

    def _asked(self, panel: Mapping[str, Any]) -> list[tuple[Asked, list[Series]]]:
        window = 240 if "interval" in panel else 4 * self._step
        asked = asked_by(self._dashboard["title"], panel, f"{window:.0f}s", f"{self._seconds:.0f}s")
        over = [(each, self._reader.now(each.of) if each.instant else None) for each in asked]
        return [(each, self._reader.over(each.of, self._seconds, self._step, self._end) if found is None else found)
                for each, found in over]  # fmt: skip

    def _heading(self, panel: Mapping[str, Any], axes: Axes) -> None:
        axes.set_axis_off()
        axes.text(0.004, 0.4, panel["title"], fontsize=10, fontweight="bold", va="center")

    def _lines(self, panel: Mapping[str, Any], axes: Axes) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        unit, stacked = defaults["unit"], "stacking" in defaults["custom"]
        found = [(named(asked.called, each.labels), each) for asked, several in self._asked(panel) for each in several]
        found = [(name, self._broken(each)) for name, each in found if not each.empty]
        found.sort(key=lambda pair: -_mean(pair[1]))
        below: dict[float, float] = {}
        for number, (name, each) in enumerate(found):
            color = COLORS[number % len(COLORS)]
            times = [(at - self._end) / 60 for at, _ in each.points]
            low = [below.get(at, 0.0) if stacked else 0.0 for at in times]
            high = [bottom + value for bottom, (_, value) in zip(low, each.points, strict=True)]
            label = f"{name or 'all'}  {spelled(_mean(each), unit)}" if number < LINES else None
            axes.plot(times, high, color=color, linewidth=0.9, label=label)
            if stacked:
                axes.fill_between(times, low, high, color=color, alpha=0.3, linewidth=0)
                below.update((at, top) for at, top in zip(times, high, strict=True) if not math.isnan(top))
        for step in defaults["thresholds"]["steps"][1:] if "thresholds" in defaults else ():
            axes.axhline(step["value"], color=MARKS.get(step["color"], "#888888"), linewidth=0.6, linestyle=":")
        axes.set_xlim(-self._seconds / 60, 0)
        axes.set_ylim(0, defaults.get("max"))
        axes.yaxis.set_major_formatter(lambda value, _: spelled(value, unit))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} min" if value else "now")
        axes.tick_params(labelsize=6, length=2, colors="#555555")
        axes.grid(color="#e8e8e8", linewidth=0.5)
        axes.spines[:].set_visible(False)
        if found:
            self._legend(axes)

    def _broken(self, each: Series) -> Series:
        """A line ends where there was nothing to be seen."""
        points = [each.points[0]]
        for at, value in each.points[1:]:
            if at - points[-1][0] > 1.5 * self._step:
                points.append((points[-1][0] + self._step, math.nan))
            points.append((at, value))
        return Series(each.labels, points)

    def _legend(self, axes: Axes) -> None:
        """Below the axes, from the panel's edge on."""
        edge = axes.get_position()
        corner = edge.x0 - 0.05, edge.y0 - 0.2 / (self._rows * ROW)
        place: dict[str, Any] = {"bbox_to_anchor": corner, "bbox_transform": self._figure.transFigure}
        look: dict[str, Any] = {"ncols": 2, "fontsize": 5.6, "frameon": False, "handlelength": 1, "columnspacing": 1}
        axes.legend(loc="upper left", **place, **look, labelspacing=0.25, borderpad=0)

    def _figure_of(self, panel: Mapping[str, Any], axes: Axes) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        (_, several), *_ = self._asked(panel)
        axes.set_axis_off()
        last = several[0].points[-1][1] if several and not several[0].empty else None
        text = spelled(last, defaults["unit"]) if last is not None else defaults["noValue"]
        color = _color(last, defaults["thresholds"]["steps"])
        axes.text(0.5, 0.5, text, fontsize=19 if len(text) < 12 else 11, ha="center", va="center", color=color,
                  transform=axes.transAxes)  # fmt: skip

    def _bars(self, panel: Mapping[str, Any], axes: Axes) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        ((asked, several),) = self._asked(panel)
        names = [named(asked.called, each.labels) for each in several]
        values = [each.points[-1][1] for each in several]
        most = defaults.get("max") or max(values, default=1)
        axes.barh(names, [most] * len(names), color="#eeeeee", height=0.6)
        colors = [_color(value, defaults["thresholds"]["steps"]) for value in values]
        axes.barh(names, [min(value, most) for value in values], color=colors, height=0.6)
        for number, value in enumerate(values):
            axes.text(most * 0.98, number, spelled(value, defaults["unit"]), ha="right", va="center", fontsize=9)
        axes.set(xticks=[], xlim=(0, most))
        axes.set_ylim(-1, max(3, len(names)))
        axes.tick_params(labelsize=8, length=0)
        axes.spines[:].set_visible(False)

    def _table(self, panel: Mapping[str, Any], axes: Axes) -> None:
        axes.set_axis_off()
        overrides = panel["fieldConfig"]["overrides"]
        columns = [(each["matcher"]["options"], each["properties"][0]["value"]) for each in overrides]
        cells: dict[str, dict[str, str]] = {}
        for (name, unit), (_, several) in zip(columns, self._asked(panel), strict=True):
            for each in several:
                cells.setdefault(each.labels["tenant"], {})[name] = spelled(each.points[-1][1], unit)
        text = [[tenant, *(row.get(name, "") for name, _ in columns)] for tenant, row in sorted(cells.items())]
        if text:
            drawn = axes.table(
                text, colLabels=["tenant", *(name for name, _ in columns)], loc="upper center", edges="horizontal"
            )
            drawn.auto_set_font_size(False)
            drawn.set_fontsize(6.5)
            drawn.auto_set_column_width([*range(len(columns) + 1)])


def _mean(each: Series) -> float:
    values = [value for _, value in each.points if not math.isnan(value)]
    return sum(values) / len(values)


def _color(value: float | None, steps: Sequence[Mapping[str, Any]]) -> str:
    """That of the highest threshold that a value has reached."""
    reached = [
        step["color"] for step in steps if value is not None and (step["value"] is None or value >= step["value"])
    ]
    return MARKS[reached[-1]] if reached else "#888888"


def draw(reader: Reader, seconds: float, folder: File = PICTURES) -> list[File]:
    """Draw every dashboard as it was in the last so many seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, dashboard in dashboards().items():
        figure = Page(dashboard, reader, seconds, max(1.0, seconds / 120)).drawn()
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=DOTS)
        plt.close(figure)
        with Image.open(file) as image:
            image.convert("RGB").quantize(SHADES, Image.Quantize.FASTOCTREE).save(file, optimize=True)
        files.append(file)
    return files


@click.command()
@click.argument("url")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="How much of the past is drawn.")
def main(url: str, minutes: float) -> None:
    """Draw the dashboards from the Prometheus at URL."""
    with Reader(url) as reader:
        for file in draw(reader, minutes * 60):
            click.echo(f"{file}  {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
