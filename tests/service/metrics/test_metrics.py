"""What is counted is what the journals say: across workers, restarts and refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed
from pydantic import SecretStr
from redis import Redis

from service.keys import Keys, TenantLimits
from service.metrics.count import _manner
from service.metrics.rows import Increments, page, row
from service.metrics.table import METRICS
from service.settings import Settings
from tests.service.serving import ASKED, Served, serving, spec, until

pytestmark = pytest.mark.anyio
Amounts = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def amounts(service: Served) -> Amounts:
    """All rows of the page, as Prometheus understands it."""
    told = await service.client.get("/metrics")
    assert (told.status_code, told.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = [sample for family in parsed(told.text) for sample in family.samples]
    return {(each.name, frozenset(each.labels.items())): each.value for each in samples}


def summed(found: Amounts, name: str, **labels: str) -> float:
    """A metric's sum over those of its rows that carry these labels."""
    return sum(amount for (each, own), amount in found.items() if each == name and labels.items() <= own)


async def test_metrics_are_what_the_bills_say(service: Served) -> None:
    jobs = [(await service.client.post("/v1/solve", json={**ASKED, "seed": seed})).json() for seed in range(5)]
    bills = [job["result"]["bill"] for job in jobs]
    found = await amounts(service)
    whose = {"tenant": "default", "strategy": "best_of_n"}
    spent = sum(bill["tokens"] for bill in bills)
    assert spent > 0
    assert summed(found, "tts_completion_tokens_total", role="policy", **whose) == spent
    assert summed(found, "tts_budget_spent_tokens_total", **whose) == spent
    assert summed(found, "tts_budget_granted_tokens_total", **whose) == 5 * 200
    assert summed(found, "tts_budget_refunded_tokens_total", **whose) == 5 * 200 - spent
    assert summed(found, "tts_prompt_tokens_total") == sum(job["result"]["usage"]["prompt_tokens"] for job in jobs)
    assert summed(found, "tts_jobs_submitted_total", tenant="default") == 5
    assert summed(found, "tts_jobs_ended_total", state="done", stop="done", **whose) == 5
    assert summed(found, "tts_answers_total", **whose) == 5
    assert summed(found, "tts_samples_total", outcome="finished") == 5 * 4
    assert summed(found, "tts_job_tokens_sum") == spent
    for histogram in ("queue_seconds", "first_answer_seconds", "final_answer_seconds", "job_tokens", "agreement"):
        assert summed(found, f"tts_{histogram}_count") == summed(found, f"tts_{histogram}_bucket", le="+Inf") == 5
    assert summed(found, "tts_call_seconds_count", role="policy") == 5 * 4
    assert ("tts_ledger_mismatches_total", frozenset()) in found, "there before it grows"
    assert summed(found, "tts_ledger_mismatches_total") == 0
    assert summed(found, "tts_jobs") == summed(found, "tts_budget_held_tokens") == 0
    assert summed(found, "tts_budget_window_tokens", tenant="default") == spent
    assert summed(found, "tts_worker_room") == service.desk.settings.jobs_at_once


async def test_a_job_whose_journal_is_read_again_for_more_answers_is_counted_once(service: Served) -> None:
    asked = {"messages": [{"role": "user", "content": "q"}], "n": 3, "answer": "maths", "budget": {"tokens": 500}}
    told = (await service.client.post("/v1/chat/completions", json=asked)).json()
    found = await amounts(service)
    assert summed(found, "tts_budget_refunded_tokens_total") == 500 - told["usage"]["completion_tokens"]
    assert summed(found, "tts_first_answer_seconds_count") == 1
    assert summed(found, "tts_replayed_calls_total") == summed(found, "tts_ledger_mismatches_total") == 0


async def test_a_dead_worker_s_gauges_are_gone_and_its_counters_stay(settings: Settings, valkey: Redis) -> None:
    async with serving(settings.model_copy(update={"lease_seconds": 0.5})) as service:

        async def up(replicas: int) -> bool:
            return summed(await amounts(service), "tts_replica_up", model="fake") == replicas

        await service.client.post("/v1/solve", json=ASKED)
        await until(lambda: up(1))
        before = await amounts(service)
        service.engines[0].stop()
        await until(lambda: up(0))
        after = await amounts(service)
        gone = {name for name, _ in before.keys() - after.keys()}
        assert gone == {"tts_replica_up", "tts_worker_jobs", "tts_worker_room"}
        counters = {key: amount for key, amount in before.items() if key[0].endswith("_total")}
        assert counters == {key: amount for key, amount in after.items() if key[0].endswith("_total")}


async def test_what_is_refused_cancelled_or_failed_is_counted_too(service: Served, valkey: Redis) -> None:
    keys = Keys(service.store.redis)
    await keys.limit("default", TenantLimits(tokens=300))
    assert (await service.client.post("/v1/jobs", json={**ASKED, "budget": {"tokens": 301}})).status_code == 429
    assert (await service.client.post("/v1/jobs", json={**ASKED, "budget": {"seconds": 1}})).status_code == 422
    await keys.limit("default", TenantLimits())
    failing = {**ASKED, "strategy": "beam", "budget": {"usd": 1}}
    assert (await service.client.post("/v1/solve", json=failing)).status_code == 422, "there is no price"
    found = await amounts(service)
    assert summed(found, "tts_jobs_refused_total", reason="budget") == 1
    assert summed(found, "tts_jobs_refused_total", reason="unbounded") == 1
    assert summed(found, "tts_jobs_ended_total", state="failed", strategy="beam") == 1
    for engine in service.engines:
        engine.stop()
    job = (await service.client.post("/v1/jobs", json=ASKED)).json()
    assert summed(await amounts(service), "tts_jobs", state="queued") == 1
    assert summed(await amounts(service), "tts_queue_age_seconds") > 0
    await service.client.delete(job["links"]["self"])
    assert summed(await amounts(service), "tts_jobs_ended_total", state="cancelled") == 1


async def test_of_many_tenants_the_first_have_names_and_the_others_are_together(service: Served) -> None:
    for tenant in range(103):
        await service.store.submit(f"t{tenant}", [spec(f"j{tenant}")])
    found = await amounts(service)
    assert summed(found, "tts_jobs_submitted_total") == 103
    assert summed(found, "tts_jobs_submitted_total", tenant="other") == 3
    assert summed(found, "tts_jobs_submitted_total", tenant="t99") == 1


async def test_metrics_are_for_those_who_have_the_token(settings: Settings, valkey: Redis) -> None:
    for token, sent, status in ((None, "", 401), ("right", "wrong", 401), ("right", "right", 200)):
        known = settings.model_copy(update={"auth": "keys", "metrics_token": token and SecretStr(token)})
        async with serving(known) as service:
            told: httpx.Response = await service.client.get("/metrics", headers={"Authorization": f"Bearer {sent}"})
            assert told.status_code == status, told.text
            assert "right" not in told.text


@pytest.mark.parametrize(
    ("chosen", "manner"),
    [
        ("majority: 5 of 8 votes", "majority"),
        ("highest prm of 8", "highest prm"),
        ("closest to the other 7 samples", "closest to the other samples"),
        ("first; no sample held an answer that could be extracted", "first"),
    ],
)
def test_how_answers_were_chosen_has_few_values(chosen: str, manner: str) -> None:
    assert _manner(chosen) == manner


def test_a_label_cannot_break_out_of_its_row() -> None:
    evil = 'a"} 1\ntts_jobs{tenant="b\\'
    (family,) = parsed(page([("tts_jobs", [(row("tts_jobs", evil, "queued").encode(), b"1")])]).decode())
    assert [sample.labels["tenant"] for sample in family.samples] == [evil]
    assert len(row("tts_jobs", "x" * 10_000, "queued")) < 200


def test_buckets_hold_what_is_below_their_bounds() -> None:
    found = Increments()
    for value in (0.005, 0.1, 0.2, 4_000):
        found.observe("tts_queue_seconds", "a", value=value)
    (family,) = parsed(
        page([(name.partition("{")[0], [(name.encode(), b"%g" % amount)]) for name, amount in found.items()]).decode()
    )
    told = {sample.labels["le"]: sample.value for sample in family.samples if "le" in sample.labels}
    assert (told["0.01"], told["0.1"], told["0.3"], told["3000"], told["+Inf"]) == (1, 2, 3, 3, 4)
    assert [float(le) for le in told] == sorted(map(float, told))


def test_every_metric_of_the_table_is_named_and_explained_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert bool(metric.buckets) == (metric.kind == "histogram")


async def test_a_page_that_is_asked_for_by_many_is_right_for_all(service: Served) -> None:
    await service.client.post("/v1/solve", json=ASKED)
    pages = await asyncio.gather(*(amounts(service) for _ in range(10)))
    counters = [{key: amount for key, amount in found.items() if key[0].endswith("_total")} for found in pages]
    assert all(each == counters[0] for each in counters)
