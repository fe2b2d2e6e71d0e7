"""Budgets: who spends what, how long it lasts, what was set aside for nothing, and what an answer costs."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from service.metrics.dashboards.page import finished, page
from service.metrics.dashboards.panels import (
    A_SECOND,
    COUNT,
    DOLLARS,
    FLOPS,
    SECONDS,
    SHARE,
    TOKENS,
    TOKENS_A_SECOND,
    Limits,
    Panel,
    Query,
    figure,
    series,
)
from service.metrics.dashboards.queries import grown, happened, now, rate, ratio, share
from service.metrics.dashboards.windows import first_to_end, windows

HOUR = 3_600


def _at_a_glance() -> list[Panel]:
    return [
        figure(
            "Spent",
            "Tokens charged a second, by everybody who is shown.",
            TOKENS_A_SECOND,
            Query(rate("tts_budget_spent_tokens_total")),
        ),
        figure(
            "Spent an hour",
            "Dollars an hour, at the present pace. Models without a price in tts.toml count as nothing.",
            DOLLARS,
            Query(f"{rate('tts_budget_spent_usd_total')} * {HOUR}"),
        ),
        figure(
            "Next limit is reached in",
            "The tenant whose limit of tokens runs out first, at its present pace, before its window ends. – : "
            "nobody's does. The table below says who it is; `tts keys limit` raises it.",
            SECONDS,
            Query(first_to_end()),
            limits=Limits(2 * HOUR, HOUR, falling=True),
            none="not in this window",
        ),
        figure(
            "Given back",
            "Share of the budgets of jobs that began which their jobs gave back, in the time that is shown. Much of "
            "it is set aside in vain and keeps others waiting: ask for smaller budgets.",
            SHARE,
            Query(share(grown("tts_budget_refunded_tokens_total"), grown("tts_budget_granted_tokens_total"))),
        ),
        figure(
            "Wasted",
            "Share of what was charged that nobody saw: calls that failed or did not stop in time, and calls that "
            "died with their worker.",
            SHARE,
            Query(
                ratio(
                    f"({happened('tts_budget_forfeited_tokens_total')} + {happened('tts_budget_lost_tokens_total')})",
                    grown("tts_budget_spent_tokens_total"),
                )
            ),
            limits=Limits(0.02, 0.1),
        ),
        figure(
            "Bills that do not add up",
            "Jobs whose bill was not what their journal adds up to, in the time that is shown. One is one too many: "
            "see the runbook.",
            COUNT,
            Query(happened("tts_ledger_mismatches_total")),
            limits=Limits(1, 1),
        ),
    ]


def _burns() -> list[Panel]:
    hourly = f"{rate('tts_budget_spent_usd_total', 'tenant')} * {HOUR}"
    return [
        series(
            "Burn by tenant",
            "Tokens charged a second. Somebody who is suddenly on top has a new program or a loop: `tts keys limit` "
            "stops it.",
            TOKENS_A_SECOND,
            Query(rate("tts_budget_spent_tokens_total", "tenant"), "{{tenant}}"),
            stacked=True,
        ),
        series(
            "Burn by strategy",
            "The same tokens, by what they were spent on.",
            TOKENS_A_SECOND,
            Query(rate("tts_budget_spent_tokens_total", "strategy"), "{{strategy}}"),
            stacked=True,
        ),
        series(
            "Dollars an hour by tenant",
            "What tenants cost at their present pace, prefill included. Empty where no model has a price.",
            DOLLARS,
            Query(hourly, "{{tenant}}"),
            stacked=True,
        ),
    ]


def _held_and_wasted() -> list[Panel]:
    back = (rate(f"tts_budget_{which}_tokens_total", "strategy") for which in ("refunded", "granted"))
    waste = [
        Query(rate(f"tts_budget_{which}_tokens_total", "strategy"), f"{{{{strategy}}}}: {which}")
        for which in ("forfeited", "lost")
    ]
    return [
        series(
            "Granted, spent, given back",
            "What jobs may spend when they begin, what they are charged, and what comes back when they end.",
            TOKENS_A_SECOND,
            *(
                Query(rate(f"tts_budget_{which}_tokens_total"), which.replace("refunded", "given back"))
                for which in ("granted", "spent", "refunded")
            ),
            width=6,
        ),
        series(
            "Given back by strategy",
            "Share of its jobs' budgets that a strategy gives back. Near 100 % its budgets are far too large; near 0 "
            "% they end its searches: see `Stop reasons`.",
            SHARE,
            Query(share(*back), "{{strategy}}"),
            width=6,
            most=1,
            slow=True,
        ),
        series(
            "Forfeits and losses",
            "Forfeited: charged for calls that failed or did not answer a halt in time (look at the engines). Lost: "
            "calls in flight when a worker died (look at the workers).",
            TOKENS_A_SECOND,
            *waste,
            width=6,
            stacked=True,
        ),
        series(
            "Set aside",
            "Tokens held for jobs that wait or run. They count against the limit until their jobs end.",
            TOKENS,
            Query(now("tts_budget_held_tokens", "tenant"), "{{tenant}}"),
            width=6,
            stacked=True,
        ),
        series(
            "Dollars: granted, spent, given back",
            "The same in dollars an hour: spent where models have prices, granted and given back where jobs have "
            "budgets in dollars.",
            DOLLARS,
            *(
                Query(f"{rate(f'tts_budget_{which}_usd_total')} * {HOUR}", which.replace("refunded", "given back"))
                for which in ("granted", "spent", "refunded")
            ),
            width=12,
        ),
        series(
            "Dollars set aside",
            "Dollars held for jobs that wait or run.",
            DOLLARS,
            Query(now("tts_budget_held_usd", "tenant"), "{{tenant}}"),
            width=6,
            stacked=True,
        ),
        series(
            "Refused",
            "Jobs not taken in, by tenant and reason. `budget`: the window or what is set aside; `rate`, `queue`: "
            "limits of `tts keys limit`; `unbounded`: a job without a budget in the tenant's unit.",
            A_SECOND,
            Query(rate("tts_jobs_refused_total", "tenant, reason"), "{{tenant}}: {{reason}}"),
            width=6,
            stacked=True,
        ),
    ]


def _answers() -> list[Panel]:
    answers = rate("tts_answers_total", "tenant, strategy")
    called = "{{tenant}}: {{strategy}}"
    return [
        series(
            "Tokens of an answered problem",
            "All tokens charged, those of jobs without an answer included, for each problem that was answered. A "
            "rise without a change of strategy: problems became harder, or answers fewer (`Jobs that ended`).",
            TOKENS,
            Query(ratio(rate("tts_budget_spent_tokens_total", "tenant, strategy"), answers), called),
            slow=True,
        ),
        series(
            "Dollars of an answered problem",
            "The same in dollars.",
            DOLLARS,
            Query(ratio(rate("tts_budget_spent_usd_total", "tenant, strategy"), answers), called),
            slow=True,
        ),
        series(
            "FLOPs of an answered problem",
            "All computing, that of verifiers included; of all tenants.",
            FLOPS,
            Query(
                ratio(
                    rate("tts_spent_flops_total", "strategy"),
                    rate("tts_answers_total", "strategy", narrowed=("strategy",)),
                ),
                "{{strategy}}",
            ),
            slow=True,
        ),
    ]


def made() -> Dashboard:
    """The dashboard."""
    about = "Who spends what, how long it lasts, what was set aside for nothing, and what an answer costs."
    return finished(
        page("budgets", "Budgets", about),
        {
            "At a glance": _at_a_glance(),
            "Burn": _burns(),
            "Windows and limits": windows(),
            "Set aside, given back, wasted": _held_and_wasted(),
            "Cost of an answer": _answers(),
        },
    )
