"""Windows and limits: how long budgets last. A section of *Budgets*."""

from __future__ import annotations

from service.metrics.dashboards.panels import DOLLARS, SECONDS, SHARE, TOKENS, Limits, Panel, Query, bars, rows, series
from service.metrics.dashboards.queries import now, rate


def _burn(unit: str) -> str:
    """Of each tenant, in all of its strategies and models: its window is one for all of them."""
    return rate(f"tts_budget_spent_{unit}_total", "tenant", narrowed=("tenant",))


def _left(unit: str) -> str:
    """What a tenant may still spend in its window."""
    limit, spent = (now(f"tts_budget_{which}_{unit}", "tenant") for which in ("limit", "window"))
    return f"({limit} - {spent})"


def _lasts(unit: str) -> str:
    """Seconds until nothing is left, if a tenant goes on as it does."""
    return f"clamp_min({_left(unit)}, 0) / ({_burn(unit)} > 0)"


CLEAR = 3
"""Times its limit: more than that need not be drawn."""


def _forecast(unit: str) -> str:
    """The share of its limit that a tenant will have spent when its window ends, if it goes on as it does.

    The present pace, carried on, and no `predict_linear` of what was spent: that falls to nothing with each window, and
    a line through a fall predicts nonsense for as long as the fall is in its range.
    """
    spent, limit = (now(f"tts_budget_{which}_{unit}", "tenant") for which in ("window", "limit"))
    spending = f"({spent} + {_burn(unit)} * {now('tts_budget_window_left_seconds', 'tenant')})"
    return f"clamp_max({spending} / {limit}, {CLEAR})"  # far above the limit, how far says nothing


def first_to_end() -> str:
    """Seconds until the first limit is reached that is reached before its window ends."""
    return f"min({_lasts('tokens')} < {now('tts_budget_window_left_seconds', 'tenant')})"


def windows() -> list[Panel]:
    """Panels of limits."""
    aside = f"{now('tts_budget_window_tokens', 'tenant')} + {now('tts_budget_held_tokens', 'tenant')}"
    return [
        bars(
            "Used and set aside of the limit",
            "Spent in this window and held for jobs that have not ended. At 100 % a tenant's next job is refused "
            "(429 `budget`), although a part of it may come back.",
            SHARE,
            Query(f"({aside}) / {now('tts_budget_limit_tokens', 'tenant')}", "{{tenant}}"),
            most=1,
            limits=Limits(0.8, 0.95),
        ),
        series(
            "Forecast for the window's end",
            "The share of its limit that a tenant will have spent when its window ends, if it goes on as it does. "
            "Above 100 % it will be refused before that.",
            SHARE,
            Query(_forecast("tokens"), "{{tenant}}: tokens"),
            Query(_forecast("usd"), "{{tenant}}: dollars"),
            most=2,
            limits=Limits(0.9, 1),
        ),
        rows(
            "Windows",
            "By tenant with a limit: how long it lasts at the present pace, beside how long it has to.",
            "tenant",
            {
                "Limit": (TOKENS, now("tts_budget_limit_tokens", "tenant")),
                "Spent": (TOKENS, now("tts_budget_window_tokens", "tenant")),
                "Lasts": (SECONDS, _lasts("tokens")),
                "Window ends in": (SECONDS, now("tts_budget_window_left_seconds", "tenant")),
                "Limit in dollars": (DOLLARS, now("tts_budget_limit_usd", "tenant")),
                "Dollars": (DOLLARS, now("tts_budget_window_usd", "tenant")),
            },
            width=8,
        ),
    ]
