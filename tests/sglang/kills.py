"""Jobs whose replica is killed again and again, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

from evals.sglang_cpu import Server
from service.store import Store
from service.store.nouns import Job
from tests.service.faults.matrix import all_over, check_account, submitted
from tests.service.faults.stack import Stack
from tests.sglang.conftest import NUMBERS, QUESTION
from tts.journal import Held, Settled, usage_of

BUDGET = 4_000
BODY: dict[str, Any] = {
    "problem": QUESTION,
    "answer": "chain",
    "instruction": "",
    "strategy": "best_of_n:n=8",
    "budget": {"tokens": BUDGET},
    "sampling": {"temperature": 1.0, "max_tokens": 256},
}
JOBS = 4
"""Handed in before a kill: more than one server would be given alone."""
LATEST = 1.5
"""Seconds that a server is left at work before it is killed, at most."""


@dataclass
class Report:
    """What came of it."""

    kills: int = 0
    jobs: int = 0
    done: int = 0
    tokens: int = 0
    unkept: int = 0
    """Tokens that were paid for and are in no text, though their call completed."""
    lost: int = 0
    """Tokens that were paid for in calls whose worker died."""
    met: list[int] = field(default_factory=list)
    """Of each call that was on a server when it failed, how many tokens were read for it, of all that served it."""
    prompt: int = BUDGET
    """How many tokens the question has."""
    slowest: float = 0.0

    @property
    def carried(self) -> int:
        """How many calls went on in the middle of their text: more was read for them than the question, some times."""
        return sum(read % self.prompt > 0 for read in self.met)

    def __str__(self) -> str:
        return (
            f"replica: {self.kills} kills met {len(self.met)} calls, {self.carried} of them in the middle of a text; "
            f"{self.done} of {self.jobs} jobs done, {self.tokens:,} tokens, {self.unkept + self.lost:,} of them lost, "
            f"the slowest job took {self.slowest:.1f} s"
        )


async def handed_in(client: httpx.AsyncClient) -> str:
    """One more job."""
    return await submitted(client, next(NUMBERS), BODY)


async def killed(stack: Stack, server: Server, kills: int) -> Report:
    """Have jobs done and kill a server that they are on, at some moment while it is at work, again and again. A job can
    be met by its own kill and by the next one: with more of them waiting, a small machine measures its queue."""
    ids: list[str] = []
    earlier: list[str] = []
    store, dice = stack.store(), random.Random(0)
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:
        for _ in range(kills):
            newest = await put_to_work(client, server)
            await asyncio.sleep(dice.uniform(0.0, LATEST))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(lambda: server.start().ready())
            await all_over(store, earlier, 60)
            ids, earlier = ids + newest, newest
    await store.aclose()
    return await judged(stack, ids, kills)


async def put_to_work(client: httpx.AsyncClient, server: Server) -> list[str]:
    """Hand in jobs until the server has some of them. It is back, but has to be looked at again, and where little is to
    be done that is left to the other one, whose speed is known."""
    ids = [await handed_in(client) for _ in range(JOBS)]
    while not await at_work(client, server):
        ids.append(await handed_in(client))
    return ids


async def at_work(client: httpx.AsyncClient, server: Server) -> bool:
    """Whether a server is soon given something to do."""
    for _ in range(10):
        told = await client.get(f"{server.url}/v1/loads?include=core")
        if any(load["num_running_reqs"] for load in told.json()["loads"]):
            return True
        await asyncio.sleep(0.05)
    return False


async def judged(stack: Stack, ids: list[str], kills: int) -> Report:
    """The jobs when they are over, bills checked against journals and the tenant's account against bills."""
    store, report = stack.store(), Report(kills, len(ids))
    try:
        jobs = await all_over(store, ids, 240)
        for job in jobs:
            await check(store, job, report)
        await check_account(store, jobs)
    finally:
        await store.aclose()
    return report


async def check(store: Store, job: Job, report: Report) -> None:
    """One job: it ended with an answer, inside its budget, and no call was settled twice, or never."""
    assert job.state == "done", (job.id, job.error)
    assert job.result is not None
    assert job.result["answer"]
    records = await store.entries(job, 0)
    held = {record.key: record.granted for record in records if isinstance(record, Held)}
    settled = [record for record in records if isinstance(record, Settled)]
    assert len({record.key for record in settled}) == len(settled) == len(held)
    spent = sum(int(record.spend.tokens) for record in settled)
    assert spent == job.result["bill"]["tokens"] == job.spent_tokens <= BUDGET
    for record in settled:
        assert record.spend.tokens <= held[record.key]
        count(record, report)
    assert job.ended is not None
    report.slowest = max(report.slowest, job.ended - job.created)
    report.done += 1
    report.tokens += spent


def count(record: Settled, report: Report) -> None:
    """One call: what was paid for is in its text, but for the token that ends it."""
    usage, spent = usage_of(record), int(record.spend.tokens)
    if record.outcome == "lost":
        report.lost += spent - (usage.completion_tokens if usage else 0)
        return
    assert record.outcome == "completed", record.error
    assert usage is not None
    kept = sum(len(segment.token_ids or ()) for segment in record.segments)
    report.unkept += spent - kept - (record.segments[-1].finish == "stop")
    report.prompt = min(report.prompt, usage.prompt_tokens)
    if record.uncertain:
        report.met.append(usage.prompt_tokens)
