"""The service on real servers: what a killed replica or a killed worker costs, and what a grammar holds."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import httpx
import pytest

from evals.sglang_cpu import Server
from service.store.store import Job
from tests.service.faults.matrix import all_over
from tests.service.faults.stack import Stack, running
from tests.sglang.conftest import QUESTION
from tts.journal import Held, Settled, usage_of

KILLS = int(os.environ.get("TTS_TEST_REPLICA_KILLS", "2"))
"""A server takes half a minute to come back on a small machine."""
BUDGET = 4_000
BODY: dict[str, Any] = {
    "problem": QUESTION,
    "answer": "chain",
    "instruction": "",
    "strategy": "best_of_n:n=8",
    "budget": {"tokens": BUDGET},
    "sampling": {"temperature": 1.0, "max_tokens": 256},
}


@pytest.fixture
def stack(tmp_path: File, policy: Server, twin: Server) -> Iterator[Stack]:
    config = tmp_path / "tts.toml"
    config.write_text(f'[models.chain]\nbackend = "sglang:{policy.url},{twin.url}"\n')
    with running(Stack(tmp_path / "data", "chain", workers=2, config=config)) as stack:
        yield stack


async def submitted(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    told = await client.post("/v1/jobs", json=body)
    assert told.status_code == 202, told.text
    return str(told.json()["id"])


def settled_of(records: list[Any]) -> list[Settled]:
    return [record for record in records if isinstance(record, Settled)]


async def judged(stack: Stack, ids: list[str]) -> tuple[list[Job], int]:
    """The jobs when they are over, each bill checked against its journal; and all tokens that were lost."""
    store = stack.store()
    try:
        jobs = await all_over(store, ids, 240)
        lost = 0
        for job in jobs:
            assert job.state == "done", (job.id, job.error)
            records = await store.entries(job, 0)
            held = {record.key: record.granted for record in records if isinstance(record, Held)}
            settled = settled_of(records)
            assert len({record.key for record in settled}) == len(settled) == len(held)
            spent = sum(int(record.spend.tokens) for record in settled)
            assert job.result is not None
            assert spent == job.result["bill"]["tokens"] == job.spent_tokens <= BUDGET
            for record in settled:
                usage = usage_of(record)
                assert record.spend.tokens <= held[record.key]
                if record.outcome == "lost":
                    lost += int(record.spend.tokens) - (usage.completion_tokens if usage else 0)
        told = await store.spending("default")
        assert told["held_tokens"] == 0
        assert told["tokens"] == sum(job.spent_tokens for job in jobs)
        return jobs, lost
    finally:
        await store.aclose()


def test_jobs_survive_kills_of_a_replica(stack: Stack, twin: Server) -> None:
    async def main() -> list[str]:
        async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
            ids, dice = [], random.Random(0)
            for _ in range(KILLS):
                ids += [await submitted(client, BODY) for _ in range(6)]
                await asyncio.sleep(dice.uniform(0.3, 1.5))
                await asyncio.to_thread(twin.kill)
                ids += [await submitted(client, BODY) for _ in range(2)]
                await asyncio.to_thread(lambda: twin.start().ready())
            return ids

    ids = asyncio.run(main())
    jobs, lost = asyncio.run(judged(stack, ids))
    assert all(job.result and job.result["answer"] for job in jobs)
    assert lost == 0, "a call on a dead replica is settled with what it had delivered, and not lost"


def test_jobs_survive_kills_of_workers_whose_engine_lives_on(stack: Stack) -> None:
    async def main() -> list[str]:
        async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
            ids = []
            for number in range(4):
                ids += [await submitted(client, BODY) for _ in range(6)]
                await asyncio.sleep(0.7)
                stack.kill("worker", number)
            return ids

    ids = asyncio.run(main())
    jobs, lost = asyncio.run(judged(stack, ids))
    assert len(jobs) == 24
    assert lost > 0, "no kill hit a call: the test shows nothing"


def test_a_json_schema_holds_every_sample(stack: Stack) -> None:
    schema = {"type": "integer", "minimum": 0}  # the lab's models know no brackets
    told = httpx.post(
        f"{stack.url}/v1/chat/completions",
        json={
            "model": "chain:best_of_n",
            "messages": [{"role": "user", "content": QUESTION}],
            "max_completion_tokens": 64,
            "temperature": 1.0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
            "answer": "text",
            "budget": {"tokens": 1_000},
        },
        timeout=60,
    )
    assert told.status_code == 200, told.text
    assert isinstance(json.loads(told.json()["choices"][0]["message"]["content"]), int)
