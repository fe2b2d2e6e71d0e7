"""What SGLang servers say of themselves: a section of *Engines*."""

from __future__ import annotations

from service.metrics.dashboards.panels import (
    COUNT,
    SECONDS,
    SHARE,
    TOKENS,
    TOKENS_A_SECOND,
    Limits,
    Panel,
    Query,
    series,
)
from service.metrics.dashboards.queries import served, served_quantile, served_rate, share

_SERVER = "{{model_name}} at {{instance}}"


def of_servers() -> list[Panel]:
    """Panels of the servers' own metrics."""
    return [
        series(
            "Cache hit share",
            "Of the tokens of prompts, as the server counts them: the gauge of its own is of its last batch only.",
            SHARE,
            Query(
                share(
                    served_rate("sglang:cached_tokens_total"),
                    served_rate("sglang:prompt_tokens_total"),
                ),
                _SERVER,
            ),
            most=1,
        ),
        series(
            "KV cache in use",
            "Share of the KV cache that running requests hold. Near 100 % requests are retracted and begun again: "
            "lower TTS_JOBS_AT_ONCE, or another server.",
            SHARE,
            Query(served("sglang:token_usage", "max"), _SERVER),
            most=1,
            limits=Limits(0.85, 0.95),
        ),
        series(
            "Running and queued",
            "Requests on each server. A queue that stays: workers offer more samples at once than servers run "
            "(`--max-running-requests`).",
            COUNT,
            Query(served("sglang:num_running_reqs"), f"{_SERVER}: running"),
            Query(served("sglang:num_queue_reqs"), f"{_SERVER}: queued"),
        ),
        series(
            "Throughput",
            "Tokens generated a second.",
            TOKENS_A_SECOND,
            Query(served_rate("sglang:generation_tokens_total"), _SERVER),
            stacked=True,
        ),
        series(
            "Time to the first token",
            "By model: the median, and what 95 % of the requests wait at most. It grows with the queue and with long "
            "prompts.",
            SECONDS,
            *(
                Query(
                    served_quantile(share, "sglang:time_to_first_token_seconds"),
                    f"{{{{model_name}}}}: p{share * 100:.0f}",
                )
                for share in (0.5, 0.95)
            ),
        ),
        series(
            "Tokens in the KV cache",
            "Held by running requests, kept of earlier ones (given up when there is need), and room in all.",
            TOKENS,
            Query(served("sglang:kv_used_tokens"), f"{_SERVER}: in use"),
            Query(served("sglang:kv_evictable_tokens"), f"{_SERVER}: kept"),
            Query(served("sglang:max_total_num_tokens"), f"{_SERVER}: room"),
        ),
    ]
