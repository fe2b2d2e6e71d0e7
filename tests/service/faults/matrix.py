"""Jobs by the hundred while something is killed again and again, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import httpx

from service.store import Store
from service.store.nouns import Job
from tests.service.faults.stack import Stack
from tts.backends.base import CHECKPOINT
from tts.journal import Ended, Held, Settled, usage_of

BUDGET = 100_000
"""More than a job can lose: one that is hit a dozen times ends with what a small budget had bought."""
BODY = {
    "problem": "Count to seven hundred.",
    "answer": "maths",
    "strategy": "best_of_n:n=2",
    "budget": {"tokens": BUDGET},
    "sampling": {"max_tokens": 1_000},
}
AT_ONCE = 16
WHOLE = [str(i) for i in range(1, 701)]


@dataclass
class Report:
    """What came of it."""

    kind: str
    jobs: int = 0
    kills: int = 0
    done: int = 0
    lost_calls: int = 0
    lost_tokens: int = 0
    most_lost: int = 0
    tokens: int = 0
    resumed: list[float] = field(default_factory=list)
    """Seconds from the death of a job's worker until another one had it."""

    def __str__(self) -> str:
        slowest = f", the slowest resumed after {max(self.resumed):.1f} s" if self.resumed else ""
        return (
            f"{self.kind}: {self.kills} kills, {self.done} of {self.jobs} jobs done, {self.tokens:,} tokens, "
            f"{self.lost_tokens:,} of them lost in {self.lost_calls} calls (at most {self.most_lost} in one){slowest}"
        )


def told(report: object) -> None:
    """Kept where a long run is asked for."""
    print(f"\n{report}")
    if folder := os.environ.get("TTS_TEST_LOG"):
        with File(folder).open("a", encoding="utf-8") as log:
            log.write(f"{report}\n")


async def submitted(client: httpx.AsyncClient, number: int, body: Mapping[str, Any] = BODY) -> str:
    """Hand in a job as careful callers do: with a key, and again until there is an answer."""
    while True:
        try:
            told = await client.post("/v1/jobs", json=body, headers={"Idempotency-Key": f"job {number}"})
            if told.status_code == 202:
                return str(told.json()["id"])
            assert told.status_code in (503,), told.text
        except httpx.HTTPError:
            pass
        await asyncio.sleep(0.2)


async def matrix(stack: Stack, kind: str, jobs: int, kills: int, act: Callable[[int], Awaitable[int | None]]) -> Report:
    """Hand in jobs, and meanwhile do something to a part again and again; then wait for all of them and check."""
    report, store = Report(kind, jobs, kills), stack.store()
    async with httpx.AsyncClient(base_url=stack.url, timeout=10) as client:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> str:
            async with gate:  # there is room for all of them, so that whoever is interrupted need not wait for a place
                id = await submitted(client, number)
                await all_over(store, [id], 600)
                return id

        handed = asyncio.gather(*(one(i) for i in range(jobs)))
        dice, watching = random.Random(kind), []
        for number in range(kills):
            await asyncio.sleep(dice.uniform(0.5, 3.0))
            if killed := await act(number):
                watching.append(asyncio.create_task(handed_on(store, killed)))
        ids = await handed
    try:
        ended = await all_over(store, ids, 120 + jobs)
        report.resumed = await asyncio.gather(*watching)
        assert len(set(ids)) == jobs, "an idempotency key made two jobs"
        for job in ended:
            await check(store, job, report)
        await check_account(store, ended)
    finally:
        await store.aclose()
    return report


async def handed_on(store: Store, pid: int) -> float:
    """Seconds until the jobs of a worker that has just died are somebody else's, or over."""
    died = time.monotonic()
    running = [job for job in await store.jobs("default", 1_000, None) if job.state == "running"]
    waiting = {job.id: job.fence for job in running if f"-{pid}-" in (job.worker or "")}
    while waiting:
        now = [await store.job("default", id) for id in waiting]
        waiting = {job.id: waiting[job.id] for job in now if job and not job.over and job.fence < waiting[job.id] + 2}
        await asyncio.sleep(0.1)
    return time.monotonic() - died


async def all_over(store: Store, ids: list[str], seconds: float) -> list[Job]:
    """The jobs, when all of them have ended."""
    end = time.monotonic() + seconds
    while True:
        found = [await store.job("default", id) for id in ids]
        missing = [id for id, job in zip(ids, found, strict=True) if job is None]
        assert not missing, f"lost: {missing}"
        jobs = [job for job in found if job]
        if all(job.over for job in jobs):
            return jobs
        left = [(job.id, job.state) for job in jobs if not job.over]
        assert time.monotonic() < end, f"{len(left)} jobs never end: {left[:5]}"
        await asyncio.sleep(0.5)


async def check(store: Store, job: Job, report: Report) -> None:
    """One job: it ended with its whole answer, inside its cap, and nothing was paid twice."""
    assert job.state == "done", (job.id, job.state, job.error)
    result: dict[str, Any] = job.result or {}
    assert result["answer"] == "700"
    assert result["text"].split()[:-2] == WHOLE, "a text was not continued where it had come to"
    records = await store.entries(job, 0)
    settled = [record for record in records if isinstance(record, Settled)]
    keys = [record.key for record in settled]
    assert len(keys) == len(set(keys)), "a call was settled twice"
    held = {record.key: record for record in records if isinstance(record, Held)}
    assert held.keys() == set(keys), "a call was never settled"
    assert isinstance(records[-1], Ended)
    assert sum(isinstance(record, Ended) for record in records) == 1
    spent = sum(int(record.spend.tokens) for record in settled)
    assert spent == result["bill"]["tokens"] == job.spent_tokens <= BUDGET
    delivered = 0
    for record in settled:
        usage = usage_of(record)
        made = usage.completion_tokens if usage else 0
        delivered += made
        if record.outcome == "lost":
            loss = int(record.spend.tokens) - made
            assert loss <= CHECKPOINT, f"{loss} tokens were lost in one call"
            report.lost_calls += 1
            report.lost_tokens += loss
            report.most_lost = max(report.most_lost, loss)
    assert delivered == 2 * (len(WHOLE) + 2), "tokens were bought twice, or not at all"
    assert result["bill"]["lost"] == spent - delivered
    report.done += 1
    report.tokens += spent


async def check_account(store: Store, jobs: list[Job]) -> None:
    """The tenant's account is the sum of its jobs' bills, nothing is set aside any more, and metrics say the same."""
    told = await store.spending("default")
    assert told["tokens"] == sum(job.spent_tokens for job in jobs)
    assert told["held_tokens"] == told["queued"] == told["running"] == 0
    assert told["jobs"] == len(jobs)
    counted = Counter[str]()
    for line in (await store.metrics()).decode().splitlines():
        if not line.startswith("#"):
            row, _, amount = line.rpartition(" ")
            counted[row.partition("{")[0]] += int(float(amount))
    assert counted["tts_budget_spent_tokens_total"] == counted["tts_job_tokens_sum"] == told["tokens"]
    assert counted["tts_budget_granted_tokens_total"] == told["tokens"] + counted["tts_budget_refunded_tokens_total"]
    assert counted["tts_jobs_submitted_total"] == counted["tts_jobs_ended_total"] == len(jobs)
    assert counted["tts_ledger_mismatches_total"] == 0
