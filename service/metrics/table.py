"""Every metric of the service, in one table: `docs/operations.md` shows the same one.

Counters and histograms lie in Redis, one field per row of `/metrics`, and grow in the scripts that write what they
count: they are right across hosts, and a worker that dies takes none of them with it. Gauges are asked for when
somebody looks. No label comes from a caller but the tenant, and of those there are only so many: the rest are `other`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000)
TOKENS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


class Metric(NamedTuple):
    """One row of the table. Of a histogram, `buckets` are the upper bounds; there is one more without a bound."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


_WHOSE = ("tenant", "strategy")
_CALL = ("role", "model", *_WHOSE)

METRICS = (
    Metric("tts_prompt_tokens_total", "counter", _CALL, "Tokens of prompts, cached ones included."),
    Metric("tts_cached_tokens_total", "counter", _CALL, "Those of them that a cache already knew."),
    Metric("tts_completion_tokens_total", "counter", _CALL, "Tokens that models generated and delivered."),
    Metric("tts_budget_granted_tokens_total", "counter", _WHOSE, "Tokens of the budgets of jobs that began."),
    Metric("tts_budget_spent_tokens_total", "counter", _WHOSE, "Tokens charged, forfeited and lost ones included."),
    Metric("tts_budget_refunded_tokens_total", "counter", _WHOSE, "Tokens given back by jobs that ended."),
    Metric(
        "tts_budget_forfeited_tokens_total",
        "counter",
        _WHOSE,
        "Tokens charged for calls that failed, or did not answer a halt in time, beyond what they delivered.",
    ),
    Metric(
        "tts_budget_lost_tokens_total",
        "counter",
        _WHOSE,
        "Tokens charged for calls in flight when a worker died, beyond what had been checkpointed.",
    ),
    Metric("tts_budget_granted_usd_total", "counter", _WHOSE, "Dollars of the budgets of jobs that began."),
    Metric("tts_budget_spent_usd_total", "counter", _WHOSE, "Dollars charged, where models have prices."),
    Metric("tts_budget_refunded_usd_total", "counter", _WHOSE, "Dollars given back by jobs that ended."),
    Metric("tts_spent_flops_total", "counter", ("strategy",), "FLOPs charged, those of verifiers included."),
    Metric("tts_jobs_submitted_total", "counter", ("tenant",), "Jobs taken in."),
    Metric(
        "tts_jobs_refused_total", "counter", ("tenant", "reason"), "Jobs not taken in: rate, queue, budget, unbounded."
    ),
    Metric(
        "tts_jobs_ended_total",
        "counter",
        (*_WHOSE, "state", "stop"),
        "Jobs that ended: done, failed, cancelled or dead; and what stopped their search, or the code of their error.",
    ),
    Metric("tts_jobs_requeued_total", "counter", (), "Jobs taken away from workers that were heard of no more."),
    Metric("tts_answers_total", "counter", (*_WHOSE, "chosen"), "Problems answered, and how the answer was chosen."),
    Metric(
        "tts_samples_total",
        "counter",
        ("strategy", "outcome"),
        "Calls of the policy: finished, step, truncated, cancelled, failed, refused, abandoned, lost, handed on.",
    ),
    Metric(
        "tts_sample_seconds_total", "counter", ("strategy",), "Seconds of the policy's calls and of waiting after them."
    ),
    Metric(
        "tts_waited_seconds_total",
        "counter",
        ("strategy",),
        "Those of them spent waiting for the slowest of the same round: barriers and stragglers.",
    ),
    Metric(
        "tts_kv_token_steps_total",
        "counter",
        ("strategy",),
        "Tokens resident in a KV cache that shares prefixes, summed over decode steps.",
    ),
    Metric("tts_replayed_calls_total", "counter", ("strategy",), "Calls answered by a journal when a job was resumed."),
    Metric("tts_ledger_mismatches_total", "counter", (), "Jobs whose bill was not what their journal adds up to."),
    Metric("tts_queue_seconds", "histogram", ("tenant",), "From a job's submission to its first start.", SECONDS),
    Metric(
        "tts_first_answer_seconds", "histogram", ("strategy",), "From a job's start to its first whole sample.", SECONDS
    ),
    Metric("tts_final_answer_seconds", "histogram", ("strategy",), "From a job's start to its answer.", SECONDS),
    Metric("tts_job_tokens", "histogram", ("strategy",), "Tokens charged to a job.", TOKENS),
    Metric("tts_agreement", "histogram", ("strategy",), "The answer's share of a job's votes.", SHARES),
    Metric("tts_call_seconds", "histogram", ("role", "model"), "From a call's hold to its settlement.", SECONDS),
    Metric("tts_jobs", "gauge", ("tenant", "state"), "Jobs that are queued or running."),
    Metric("tts_queue_age_seconds", "gauge", (), "How long the job has waited that waits longest."),
    Metric("tts_dead_letters", "gauge", (), "Jobs that nobody could bring to their end, until they expire."),
    Metric("tts_budget_held_tokens", "gauge", ("tenant",), "Tokens set aside for jobs that have not ended."),
    Metric("tts_budget_window_tokens", "gauge", ("tenant",), "Tokens charged in the tenant's present window."),
    Metric("tts_budget_limit_tokens", "gauge", ("tenant",), "Tokens that a tenant with a limit may spend in a window."),
    Metric("tts_budget_held_usd", "gauge", ("tenant",), "Dollars set aside for jobs that have not ended."),
    Metric("tts_budget_window_usd", "gauge", ("tenant",), "Dollars charged in the tenant's present window."),
    Metric("tts_budget_limit_usd", "gauge", ("tenant",), "Dollars that a tenant with a limit may spend in a window."),
    Metric("tts_budget_window_left_seconds", "gauge", ("tenant",), "Seconds until the tenant's next window begins."),
    Metric("tts_worker_jobs", "gauge", ("worker",), "Jobs that a living worker runs."),
    Metric("tts_worker_room", "gauge", ("worker",), "Jobs that a living worker can run side by side."),
    Metric("tts_replica_up", "gauge", ("worker", "model", "replica"), "Whether a worker reaches a model's replica."),
    Metric(
        "tts_resident_kv_tokens",
        "gauge",
        ("worker", "model", "replica"),
        "Tokens in a replica's KV cache, as a worker heard last.",
    ),
)
