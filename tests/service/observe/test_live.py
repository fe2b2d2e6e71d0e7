"""A real Prometheus scrapes the running service under traffic: every panel and every alert is asked, and has data."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.service.faults.stack import Stack, running
from tests.service.observe.prometheus import (
    BINARY,
    MISSING,
    PROMTOOL,
    Asked,
    Reader,
    asked_by_panels,
    asked_by_rules,
    watching,
)
from tests.service.observe.traffic import PROFILES, Callers, busy, keyed, mishaps

pytestmark = pytest.mark.skipif(BINARY is None, reason=MISSING)

TOKEN = "a token of this test"
SECONDS = 25.0
SERVED = ("sglang:", "tts_replica_up", "tts_resident_kv_tokens")
"""What only servers have: tests/sglang asks for it."""
SPENT = "sum(max without (instance, pod) (tts_budget_spent_tokens_total))"
BURN = "sum(max without (instance, pod) (rate(tts_budget_spent_tokens_total[5s])))"


class Watched(NamedTuple):
    """A service that was busy for a while, and who saw it."""

    stack: Stack
    reader: Reader
    jobs: list[dict[str, Any]]
    began: float


async def traffic(stack: Stack) -> list[dict[str, Any]]:
    """Some seconds of it; the jobs."""
    callers = Callers(stack, await keyed(stack))
    try:
        usual = asyncio.create_task(busy(callers, SECONDS))
        told = await mishaps(stack, callers)
        return told + [await callers.ended(tenant, job) for tenant, job in await usual]
    finally:
        await callers.aclose()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "tts.toml").write_text(PROFILES)
    settings = {"TTS_AUTH": "keys", "TTS_METRICS_TOKEN": TOKEN}
    stack = Stack(folder / "data", "steps", apis=2, config=folder / "tts.toml", settings=settings)
    targets = {"tts": [f"127.0.0.1:{port}" for port in stack.ports]}
    with running(stack), watching(folder / "prometheus", targets, TOKEN) as reader:
        began = time.time()
        jobs = asyncio.run(traffic(stack))
        time.sleep(2.5)  # until the last of it has been seen
        yield Watched(stack, reader, jobs, began)


def unserved(asked: list[Asked]) -> list[Asked]:
    return [each for each in asked if not any(name in each.of for name in SERVED)]


@pytest.mark.parametrize("asked", unserved(asked_by_panels()), ids=lambda asked: asked.where)
def test_a_panel_has_data(watched: Watched, asked: Asked) -> None:
    found = watched.reader.over(asked.of, time.time() - watched.began, 1)
    assert any(not each.empty for each in found), asked.of


@pytest.mark.parametrize("asked", unserved(asked_by_rules()), ids=lambda asked: asked.where)
def test_what_a_rule_compares_has_data(watched: Watched, asked: Asked) -> None:
    found = watched.reader.over(asked.of, time.time() - watched.began, 1)
    assert any(not each.empty for each in found), asked.of


def test_rules_are_healthy(watched: Watched) -> None:
    groups = watched.reader.get("/rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
    targets = watched.reader.get("/targets")["activeTargets"]
    assert [target["health"] for target in targets] == ["up", "up"], [target["lastError"] for target in targets]


def test_tokens_are_counted_once_however_many_show_them(watched: Watched) -> None:
    (spent,) = watched.reader.now(SPENT)
    assert spent.points[0][1] == sum(job["result"]["bill"]["tokens"] for job in watched.jobs if job["result"])
    (each,) = watched.reader.now("count(tts_jobs_requeued_total)")
    assert each.points[0][1] == 2, "both API processes show it"


def test_mishaps_are_seen(watched: Watched) -> None:
    def total(query: str) -> float:
        return sum(each.points[0][1] for each in watched.reader.now(f"max without (instance, pod) ({query})"))

    assert total('tts_jobs_refused_total{tenant="initech", reason="budget"}') == 1
    assert total('tts_jobs_ended_total{state="cancelled"}') == 2
    assert total('tts_jobs_ended_total{state="failed"}') == 1
    assert total('tts_jobs_ended_total{state="dead"}') == 1
    assert total("tts_budget_lost_tokens_total") > 0
    assert total("tts_budget_forfeited_tokens_total") > 0
    assert total("tts_jobs_requeued_total") > 0
    assert total("tts_replayed_calls_total") > 0
    assert total("tts_ledger_mismatches_total") == 0


def test_nobody_reads_metrics_without_the_token(watched: Watched) -> None:
    url = f"{watched.stack.url}/metrics"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer another"}).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.skipif(PROMTOOL is None, reason=MISSING)
def test_the_page_is_as_prometheus_wants_it(watched: Watched) -> None:
    page = httpx.get(f"{watched.stack.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    told = subprocess.run([str(PROMTOOL), "check", "metrics"], input=page, capture_output=True, text=True, timeout=30)
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_dead_worker_takes_its_gauges_along_and_no_counters(watched: Watched) -> None:
    reader, stack = watched.reader, watched.stack
    before, workers = reader.now(SPENT)[0].points[0][1], len(reader.now("count by (worker) (tts_worker_room)"))
    assert workers == 2
    stack.stop_one("worker", 0)
    try:
        _until(lambda: len(reader.now("count by (worker) (tts_worker_room)")) == 1, 20)
        assert reader.now(SPENT)[0].points[0][1] == before
    finally:
        stack.start_one("worker", 0)


def test_a_restart_is_no_spike(watched: Watched) -> None:
    """Whatever is started again shows the same counters as before: nothing was reset, and nothing is counted anew."""
    reader, stack = watched.reader, watched.stack
    time.sleep(6)
    began = time.time()
    for kind in ("api", "worker"):
        for number in range(2):
            stack.kill(kind, number)
            time.sleep(1)
    _until(lambda: len(reader.now("up == 1")) == 2, 30)
    time.sleep(6)
    (burn,) = reader.over(BURN, time.time() - began, 1)
    assert max(value for _, value in burn.points) == 0
    resets = reader.now("max(resets(tts_budget_spent_tokens_total[2m]))")
    assert resets[0].points[0][1] == 0


def _until(holds: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.3)


def test_every_panel_is_asked_somewhere() -> None:
    """Here, or with real servers."""
    served = [each for each in asked_by_panels() if each not in unserved(asked_by_panels())]
    assert all("engines" in each.where for each in served)
    assert len(served) < len(unserved(asked_by_panels()))
