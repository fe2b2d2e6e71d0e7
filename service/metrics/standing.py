"""How things stand: the gauges, asked for when somebody looks. A worker that is dead says nothing, and is not shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.metrics.rows import row

Gauges = dict[str, float]


def tenant_gauges(told: Sequence[Any]) -> Gauges:
    """Of one tenant, as the script `metrics` tells of it."""
    tenant, queued, running, left, tokens, nano, held_tokens, held_nano, most_tokens, most_nano = told
    name = tenant.decode()
    found = {
        row("tts_jobs", name, "queued"): queued,
        row("tts_jobs", name, "running"): running,
        row("tts_budget_window_left_seconds", name): left / 1000,
        row("tts_budget_window_tokens", name): tokens,
        row("tts_budget_window_usd", name): nano / 1e9,
        row("tts_budget_held_tokens", name): held_tokens,
        row("tts_budget_held_usd", name): held_nano / 1e9,
    }
    if most_tokens:
        found[row("tts_budget_limit_tokens", name)] = float(most_tokens)
    if most_nano:
        found[row("tts_budget_limit_usd", name)] = float(most_nano) / 1e9
    return found


def worker_gauges(workers: Mapping[str, Mapping[str, Any]]) -> Gauges:
    """Of the workers that are alive, by what they say of themselves."""
    found: Gauges = {}
    for worker, about in workers.items():
        found[row("tts_worker_jobs", worker)] = about["jobs"]
        found[row("tts_worker_room", worker)] = about["room"]
        for model, replicas in about.get("models", {}).items():
            for replica, (up, resident) in replicas.items():
                found[row("tts_replica_up", worker, model, replica)] = int(up)
                if resident is not None:
                    found[row("tts_resident_kv_tokens", worker, model, replica)] = resident
    return found
