"""The dashboards, as code: `python -m service.metrics.dashboards` writes what Grafana loads.

Needs grafana-foundation-sdk, which only developers have: what runs reads the JSON in `service/deploy/grafana`.
"""

from __future__ import annotations

import json
from pathlib import Path as File

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from service.metrics.dashboards import budgets, engines, strategies

FOLDER = File(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
"""Where they lie, and where `tts up --observe` says that they do."""


def files() -> dict[str, str]:
    """The text of every dashboard's file."""
    made = {"budgets": budgets.made(), "strategies": strategies.made(), "engines": engines.made()}
    return {
        f"{name}.json": json.dumps(each, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for name, each in made.items()
    }
