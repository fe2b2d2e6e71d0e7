"""Strategies: whether answers agree, how they were chosen, what a job takes, and what ends it."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from service.metrics.dashboards.page import finished, page
from service.metrics.dashboards.panels import (
    A_SECOND,
    COUNT,
    SECONDS,
    SHARE,
    TOKENS,
    Limits,
    Panel,
    Query,
    figure,
    series,
)
from service.metrics.dashboards.queries import grown, grown_quantile, quantile, rate, ratio, share

_ENDED = "tts_jobs_ended_total"


def _percentiles(name: str, *shares: float) -> list[Query]:
    """By strategy."""
    return [Query(quantile(share, name, "strategy"), f"{{{{strategy}}}}: p{share * 100:.0f}") for share in shares]


def _at_a_glance() -> list[Panel]:
    return [
        figure(
            "Answered",
            "Problems answered in the time that is shown.",
            COUNT,
            Query(grown("tts_answers_total")),
            width=6,
        ),
        figure(
            "Jobs without success",
            "Share of the jobs that ended failed or dead, in the time that is shown; cancelled ones are left out.",
            SHARE,
            Query(
                ratio(
                    f"({grown(_ENDED, state='failed|dead')} or vector(0))",
                    grown(_ENDED, state="done|failed|dead"),
                )
            ),
            width=6,
            limits=Limits(0.02, 0.1),
        ),
        figure(
            "Agreement",
            "Median share of a job's votes that its answer has, in the time that is shown. Below a half, votes "
            "decide by little.",
            SHARE,
            Query(grown_quantile(0.5, "tts_agreement")),
            width=6,
            limits=Limits(0.5, 0.3, falling=True),
        ),
        figure(
            "Answered within",
            "95 % of the answers in the time that is shown came this soon after their job's start.",
            SECONDS,
            Query(grown_quantile(0.95, "tts_final_answer_seconds")),
            width=6,
        ),
    ]


def _answers() -> list[Panel]:
    return [
        series(
            "Agreement by strategy",
            "The answer's share of a job's votes: the median, and what a tenth of the jobs stays below. A fall for "
            "all strategies: harder problems, another model or template. For one: its parameters.",
            SHARE,
            *_percentiles("tts_agreement", 0.5, 0.1),
            most=1,
            slow=True,
        ),
        series(
            "How answers were chosen",
            "Problems answered, by what chose the answer: a vote, confidence, a verifier's score. More that were "
            "`forced at the end` than usual: budgets end before a sample does. `for want of scores`: the verifier "
            "fails.",
            A_SECOND,
            Query(rate("tts_answers_total", "chosen"), "{{chosen}}"),
            stacked=True,
        ),
        series(
            "How answers were chosen, by strategy",
            "The same for each strategy.",
            A_SECOND,
            Query(rate("tts_answers_total", "strategy, chosen"), "{{strategy}}: {{chosen}}"),
            stacked=True,
        ),
    ]


def _endings() -> list[Panel]:
    return [
        series(
            "Stop reasons",
            "What stopped the search of jobs that ended. Many that stopped for their budget or deadline: larger "
            "ones, or fewer samples.",
            A_SECOND,
            Query(rate(_ENDED, "stop"), "{{stop}}"),
            stacked=True,
        ),
        series(
            "Stop reasons by strategy",
            "The same for each strategy.",
            A_SECOND,
            Query(rate(_ENDED, "strategy, stop"), "{{strategy}}: {{stop}}"),
            stacked=True,
        ),
        series(
            "Jobs that ended",
            "`failed`: the job's error says why, mostly its model. `dead`: nobody could bring it to its end; `tts "
            "dead` lists them.",
            A_SECOND,
            Query(rate(_ENDED, "state"), "{{state}}"),
            stacked=True,
        ),
    ]


def _costs() -> list[Panel]:
    outcomes = rate("tts_samples_total", "strategy, outcome", outcome="truncated|failed|refused|abandoned|lost")
    every = rate("tts_samples_total", "strategy")
    return [
        series(
            "Tokens of a job",
            "Charged to a job: the median, and what 95 % of the jobs stay below. The budgets should lie a little "
            "above the latter.",
            TOKENS,
            *_percentiles("tts_job_tokens", 0.5, 0.95),
            slow=True,
        ),
        series(
            "Samples that came to nothing",
            "Share of a strategy's calls. `truncated`: a larger `max_tokens`. `refused`: the budget was too small "
            "for one more. `failed`, `lost`: engines and workers. `abandoned`: not needed any more.",
            SHARE,
            Query(f"{outcomes} / on (strategy) group_left () ({every} > 0)", "{{strategy}}: {{outcome}}"),
            slow=True,
        ),
        series(
            "Tokens resident, per token generated",
            "How much KV cache a strategy holds at each of its decode steps, where prefixes are shared. It is what "
            "bounds how many of its jobs fit on an engine side by side.",
            TOKENS,
            Query(
                ratio(
                    rate("tts_kv_token_steps_total", "strategy"),
                    rate("tts_completion_tokens_total", "strategy", narrowed=("strategy",), role="policy"),
                ),
                "{{strategy}}",
            ),
            slow=True,
        ),
    ]


def _times() -> list[Panel]:
    return [
        series(
            "Time to the answer",
            "From a job's start to its answer: the median, and what 95 % of the answers need at most.",
            SECONDS,
            *_percentiles("tts_final_answer_seconds", 0.5, 0.95),
            width=6,
            slow=True,
        ),
        series(
            "Time to the first whole sample",
            "From a job's start. If it grows and the queue of the engines does too, there are too few engines.",
            SECONDS,
            *_percentiles("tts_first_answer_seconds", 0.5, 0.95),
            width=6,
            slow=True,
        ),
        series(
            "Waiting for stragglers",
            "Share of their time that samples had ended and waited for the slowest of their round. Searches by "
            "rounds pay it: narrower beams, shorter steps, or a strategy without rounds.",
            SHARE,
            Query(
                share(rate("tts_waited_seconds_total", "strategy"), rate("tts_sample_seconds_total", "strategy")),
                "{{strategy}}",
            ),
            width=6,
            most=1,
            slow=True,
        ),
        series(
            "Replayed calls",
            "Calls that a journal answered when a job was resumed: they cost nothing. They come with restarts and "
            "dead workers, and should come with nothing else.",
            A_SECOND,
            Query(rate("tts_replayed_calls_total", "strategy"), "{{strategy}}"),
            width=6,
        ),
    ]


def made() -> Dashboard:
    """The dashboard."""
    about = "Whether answers agree, how they were chosen, what a job takes, and what ends it."
    return finished(
        page("strategies", "Strategies", about),
        {
            "At a glance": _at_a_glance(),
            "Answers": _answers(),
            "Ends of jobs": _endings(),
            "What a job takes": _costs(),
            "Time": _times(),
        },
    )
