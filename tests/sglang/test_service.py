"""The service on real servers: what a killed replica or a killed worker costs, and what a grammar holds."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path as File

import httpx
import pytest

from evals.sglang_cpu import Server
from tests.service.faults.matrix import told
from tests.service.faults.stack import Stack, running
from tests.sglang.conftest import QUESTION
from tests.sglang.kills import Report, handed_in, judged, killed

KILLS = int(os.environ.get("TTS_TEST_REPLICA_KILLS", "20"))
SOON = 30.0
"""Seconds in which a job is done, whatever is killed meanwhile."""


@pytest.fixture
def stack(tmp_path: File, policy: Server, twin: Server) -> Iterator[Stack]:
    config = tmp_path / "tts.toml"
    config.write_text(f'[models.chain]\nbackend = "sglang:{policy.url},{twin.url}"\n')
    with running(Stack(tmp_path / "data", "chain", workers=2, config=config)) as stack:
        yield stack


def test_jobs_survive_kills_of_a_replica(stack: Stack, twin: Server) -> None:
    report = asyncio.run(killed(stack, twin, KILLS))
    told(report)
    assert report.done == report.jobs
    assert report.unkept == report.lost == 0, "a call on a dead replica goes on elsewhere with what it had delivered"
    assert len(report.met) >= KILLS, "kills hit hardly any call: the test shows nothing"
    assert report.carried > len(report.met) / 2, "calls hardly ever went on in the middle of their text"
    assert report.slowest < SOON


def test_jobs_survive_kills_of_workers_whose_engine_lives_on(stack: Stack) -> None:
    async def main() -> Report:
        async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
            ids = []
            for number in range(4):
                ids += [await handed_in(client) for _ in range(6)]
                await asyncio.sleep(0.7)
                stack.kill("worker", number)
        return await judged(stack, ids, 4)

    report = asyncio.run(main())
    assert report.done == 24
    assert report.lost > 0, "no kill hit a call: the test shows nothing"


def test_a_json_schema_holds_every_sample(stack: Stack) -> None:
    schema = {"type": "integer", "minimum": 0}  # the lab's models know no brackets
    answer = httpx.post(
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
    assert answer.status_code == 200, answer.text
    assert isinstance(json.loads(answer.json()["choices"][0]["message"]["content"]), int)
