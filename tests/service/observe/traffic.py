"""Callers: several tenants and strategies; some jobs fail, are cancelled, ask for too much, or lose their worker."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import httpx

from service.keys import Keys, TenantLimits
from service.store.connection import connect
from tests.service.faults.stack import Stack

PROFILES = """
[models.steps]
backend = "fake:tests.fakes:stepper"
price = { prompt = 0.05, completion = 0.2 }

[models.slow]
backend = "fake:tests.handlers:counting"
price = { prompt = 0.05, completion = 0.2 }

[models.half]
backend = "fake:tests.handlers:half_broken"
price = { prompt = 0.05, completion = 0.2 }

[models.broken]
backend = "fake:tests.handlers:broken"

[models.stubborn]
backend = "fake:tests.handlers:stubborn"

[models.crashing]
backend = "fake:tests.handlers:crashing"
"""
LIMITS = {
    "acme": TenantLimits(tokens=2_000_000, period="day"),
    "globex": TenantLimits(tokens=20_000, usd=0.02, period="month"),
    "initech": TenantLimits(tokens=300, period="month"),
}
"""What tenants may spend: much, what they will have spent long before the month is over, and almost nothing."""


class Kind(NamedTuple):
    """A job that is asked for again and again."""

    model: str
    strategy: str
    tokens: int = 400


USUAL = (
    Kind("steps", "best_of_n:n=4"),
    Kind("steps", "self_consistency:n=6"),
    Kind("steps", "beam:n=4", 800),
    Kind("half", "best_of_n:n=4"),
    Kind("slow", "single", 80),
)


async def keyed(stack: Stack) -> dict[str, str]:
    """A key for each tenant, and their limits."""
    async with connect(stack.redis_url) as redis:
        keys = Keys(redis)
        for tenant, limits in LIMITS.items():
            await keys.limit(tenant, limits)
        return {tenant: await keys.create(tenant) for tenant in LIMITS}


def body(kind: Kind, usd: bool) -> dict[str, Any]:
    """Of a tenant that is limited in dollars, a job has to say how many it may cost."""
    budget = {"tokens": kind.tokens, **({"usd": 0.001} if usd else {})}
    return {
        "problem": "How much is six times seven?",
        "answer": "maths",
        "model": kind.model,
        "strategy": kind.strategy,
        "budget": budget,
    }


class Callers:
    """Clients of a service, one for each tenant, spread over its API processes."""

    def __init__(self, stack: Stack, keys: dict[str, str]) -> None:
        urls = [f"http://127.0.0.1:{port}" for port in stack.ports]
        self._clients = {
            tenant: httpx.AsyncClient(
                base_url=urls[number % len(urls)], headers={"Authorization": f"Bearer {key}"}, timeout=30
            )
            for number, (tenant, key) in enumerate(keys.items())
        }

    async def ask(self, tenant: str, kind: Kind, **more: Any) -> str:
        """Hand in a job; its id, or nothing where it is refused."""
        asked = {**body(kind, LIMITS[tenant].usd is not None), **more}
        told = await self._clients[tenant].post("/v1/jobs", json=asked)
        assert told.status_code in (202, 429), told.text
        return str(told.json()["id"]) if told.status_code == 202 else ""

    async def cancel(self, tenant: str, job: str) -> None:
        (await self._clients[tenant].delete(f"/v1/jobs/{job}")).raise_for_status()

    async def ended(self, tenant: str, job: str, seconds: float = 60) -> dict[str, Any]:
        """A job when it is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found: dict[str, Any] = (await self._clients[tenant].get(f"/v1/jobs/{job}")).json()
            if found["ended"] is not None:
                return found
            await asyncio.sleep(0.2)
        raise AssertionError(f"{job} did not end")

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()


async def busy(
    callers: Callers, seconds: float, kinds: Sequence[Kind] = USUAL, pause: float = 0.3
) -> list[tuple[str, str]]:
    """Ask for a while; the tenants and jobs."""
    dice, end, jobs = random.Random(0), time.monotonic() + seconds, []
    number = 0
    while time.monotonic() < end:
        tenant = ("acme", "globex")[number % 2]
        job = await callers.ask(tenant, kinds[number % len(kinds)])
        if job:
            jobs.append((tenant, job))
        number += 1
        await asyncio.sleep(dice.uniform(0, 2 * pause))
    return jobs


async def mishaps(stack: Stack, callers: Callers) -> list[dict[str, Any]]:
    """One of each: refused, cancelled, forfeited, failed, dead, and lost with its worker; the jobs that came of it."""
    assert await callers.ask("initech", Kind("steps", "best_of_n:n=4", 5_000)) == ""
    cancelled = await callers.ask("acme", Kind("slow", "best_of_n:n=4", 3_000))
    failed = await callers.ask("acme", Kind("broken", "best_of_n:n=2"))
    dead = await callers.ask("acme", Kind("crashing", "best_of_n:n=2"))
    forfeited = await callers.ask("acme", Kind("stubborn", "best_of_n:n=2"))
    await asyncio.sleep(1.5)
    for job in (cancelled, forfeited):
        await callers.cancel("acme", job)
    lost = [await callers.ask("acme", Kind("slow", "best_of_n:n=4", 3_000)) for _ in range(4)]
    await asyncio.sleep(2)
    for number in range(len(stack.parts["worker"])):
        stack.kill("worker", number)
    jobs = [await callers.ended("acme", job) for job in (cancelled, forfeited, failed, dead, *lost)]
    assert [job["state"] for job in jobs] == ["cancelled", "cancelled", "failed", "dead", *["done"] * len(lost)]
    return jobs
