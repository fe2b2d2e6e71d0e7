"""Whatever is killed, at whatever moment: no job is lost, nothing is paid twice, no cap is exceeded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path as File

import pytest

from tests.service.faults.matrix import matrix, told
from tests.service.faults.stack import Stack, running

KILLS = int(os.environ.get("TTS_TEST_KILLS", "20"))
"""Of each kind; as many jobs per kill as keep the workers busy meanwhile."""
JOBS = KILLS * 4
SOON = 15.0


@pytest.fixture
def stack(tmp_path: File) -> Iterator[Stack]:
    with running(Stack(tmp_path, "fake:tests.handlers:counting")) as stack:
        yield stack


@pytest.mark.parametrize("kind", ["worker", "api", "valkey"])
def test_jobs_survive_kills_of(kind: str, stack: Stack) -> None:
    async def kill(number: int) -> int | None:
        killed = stack.kill(kind, number)
        return killed if kind == "worker" else None

    report = asyncio.run(matrix(stack, kind, JOBS, KILLS, kill))
    told(report)
    assert report.done == JOBS
    if kind == "worker":
        assert report.lost_calls, "no kill hit a call: the test shows nothing"
        assert max(report.resumed) < SOON


def test_a_rolling_upgrade_loses_nothing(stack: Stack) -> None:
    async def upgrade(number: int) -> None:
        await asyncio.to_thread(stack.stop_one, "worker" if number % 3 else "api", number)
        stack.start_one("worker" if number % 3 else "api", number)

    report = asyncio.run(matrix(stack, "upgrade", max(20, KILLS), max(4, KILLS // 5), upgrade))
    told(report)
    assert report.done == report.jobs
    assert report.lost_calls, "nothing was handed back: the test shows nothing"
    assert report.lost_tokens == 0
