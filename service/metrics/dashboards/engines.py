"""Engines: the queue, the workers, the models as workers see them, and what SGLang servers say of themselves."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from service.metrics.dashboards.page import finished, page
from service.metrics.dashboards.panels import (
    A_SECOND,
    COUNT,
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
from service.metrics.dashboards.queries import (
    happened,
    now,
    quantile,
    rate,
    ratio,
    share,
)
from service.metrics.dashboards.sglang import of_servers

REPLICAS = f"sum({now('tts_replica_up', 'model, replica', 'max')})"
"""Replicas that some worker reaches."""
WORKERS = now("tts_worker_room", "", "count")


def _at_a_glance() -> list[Panel]:
    return [
        figure(
            "Workers",
            "Workers that are alive. None: jobs are taken in and wait.",
            COUNT,
            Query(WORKERS),
            limits=Limits(1, 1, falling=True),
            none="none",
        ),
        figure(
            "Room that is used",
            "Jobs that run, of those that all workers could run side by side. Near 100 % jobs queue: more workers, "
            "if the engines have room too.",
            SHARE,
            Query(ratio(now("tts_worker_jobs"), now("tts_worker_room"))),
            limits=Limits(0.8, 0.95),
        ),
        figure(
            "Oldest in the queue",
            "How long the job has waited that waits longest.",
            SECONDS,
            Query(now("tts_queue_age_seconds", "", "max")),
            limits=Limits(60, 300),
        ),
        figure(
            "Replicas that are reached",
            "Share of the models' replicas that some worker reaches.",
            SHARE,
            Query(f"avg({now('tts_replica_up', 'model, replica', 'max')})"),
            limits=Limits(1, 0.5, falling=True),
        ),
        figure(
            "Dead letters",
            "Jobs that nobody could bring to their end: `tts dead` lists them, and the runbook says what then.",
            COUNT,
            Query(now("tts_dead_letters", "", "max")),
            limits=Limits(1, 1),
        ),
        figure(
            "Taken away from workers",
            "Jobs whose worker was heard of no more, in the time that is shown. They go on elsewhere.",
            COUNT,
            Query(happened("tts_jobs_requeued_total")),
            limits=Limits(1, 10),
        ),
    ]


def _queue() -> list[Panel]:
    return [
        series(
            "Jobs by state",
            "Jobs that wait and that run. A queue that grows with workers that have room is somebody's `--running`.",
            COUNT,
            Query(now("tts_jobs", "tenant, state"), "{{tenant}}: {{state}}"),
            width=6,
            stacked=True,
        ),
        series(
            "Time in the queue",
            "From a job's submission to its first start: the median, and what 95 % of the jobs wait at most.",
            SECONDS,
            *(
                Query(quantile(share, "tts_queue_seconds", "tenant"), f"{{{{tenant}}}}: p{share * 100:.0f}")
                for share in (0.5, 0.95)
            ),
            width=6,
        ),
        series(
            "Jobs in and out",
            "Jobs taken in and jobs that ended. Where in stays above out, the queue grows.",
            A_SECOND,
            Query(rate("tts_jobs_submitted_total"), "taken in"),
            Query(rate("tts_jobs_ended_total"), "ended"),
            width=6,
        ),
        series(
            "Jobs by worker",
            "Jobs that each worker runs. A line that ends is a worker that died or was stopped.",
            COUNT,
            Query(now("tts_worker_jobs", "worker"), "{{worker}}"),
            width=6,
            stacked=True,
        ),
    ]


def _models() -> list[Panel]:
    made, prompts, cached = (
        rate(f"tts_{which}_tokens_total", "model, role") for which in ("completion", "prompt", "cached")
    )
    answers = rate("tts_answers_total", "strategy")
    return [
        series(
            "Generated",
            "Tokens a second that models delivered to workers, by model and what it was asked for.",
            TOKENS_A_SECOND,
            Query(made, "{{model}}: {{role}}"),
            stacked=True,
            width=6,
        ),
        series(
            "Read",
            "Tokens of prompts a second, those included that a cache already knew.",
            TOKENS_A_SECOND,
            Query(prompts, "{{model}}: {{role}}"),
            stacked=True,
            width=6,
        ),
        series(
            "Cache hits, as workers see them",
            "Share of the prompts' tokens that a cache already knew. Samples of one problem share its prompt, so it "
            "is high. A fall: an engine was started anew, its cache is full, or jobs are spread over too many "
            "replicas.",
            SHARE,
            Query(share(cached, prompts), "{{model}}: {{role}}"),
            most=1,
            width=6,
        ),
        series(
            "Calls",
            "From a call's hold to its settlement: the median, and what 95 % of the calls need at most.",
            SECONDS,
            *(
                Query(
                    quantile(share, "tts_call_seconds", "model, role"),
                    f"{{{{model}}}}: {{{{role}}}}: p{share * 100:.0f}",
                )
                for share in (0.5, 0.95)
            ),
            width=6,
        ),
        series(
            "Answers per replica-second",
            "Problems answered a second, over the replicas that are reached (over the workers, where they generate "
            "by themselves): what a server is worth. It falls with harder problems, dearer strategies, and idle "
            "engines.",
            A_SECOND,
            Query(f"{answers} / scalar({REPLICAS} or {WORKERS})", "{{strategy}}"),
        ),
        series(
            "Replicas by model",
            "Share of the workers that reach a replica. 0 %: nobody does, the server is down. Between: a network, or "
            "a worker that has to be started again.",
            SHARE,
            Query(now("tts_replica_up", "model, replica", "avg"), "{{model}}: {{replica}}"),
            most=1,
            limits=Limits(1, 0.5, falling=True),
        ),
        series(
            "KV cache, as workers heard last",
            "Tokens in a replica's KV cache.",
            TOKENS,
            Query(now("tts_resident_kv_tokens", "model, replica", "max"), "{{model}}: {{replica}}"),
        ),
    ]


def made() -> Dashboard:
    """The dashboard."""
    about = "The queue, the workers, the models as workers see them, and what SGLang servers say of themselves."
    return finished(
        page("engines", "Engines", about),
        {
            "At a glance": _at_a_glance(),
            "Queue and workers": _queue(),
            "Models, as workers see them": _models(),
            "SGLang, as its servers say": of_servers(),
        },
    )
