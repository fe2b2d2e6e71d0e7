"""Values as Grafana spells them, by the units of its panels."""

from __future__ import annotations

import math


def spelled(value: float, unit: str) -> str:
    """A value as Grafana would show it."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{value:.0%}" if value >= 0.1 else f"{value:.1%}"
    if unit == "s":
        return _duration(value)
    if unit == "currencyUSD":
        return f"${value:.2f}" if value >= 0.1 else f"${value:.2g}"
    end = {"short": "", "cps": "/s"}.get(unit, f" {unit.removeprefix('si:')}")
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}{end}" if end in ("", "/s") else f"{value / size:.3g} {letter}{end[1:]}"
    return f"{value:.3g}{end}"


def _duration(seconds: float) -> str:
    for size, name in ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds * 1000:.3g} ms"
