"""Jobs in Redis: handed in, claimed, kept alive, ended, looked at."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import TypeAdapter

from service.metrics.rows import Increments, names, page, row
from service.metrics.standing import tenant_gauges, worker_gauges
from service.settings import Settings
from service.spec import Spec, State
from service.store.connection import Scripts, connect
from service.store.nouns import (
    Batch,
    Claim,
    Glimpse,
    Job,
    Pulse,
    Refusal,
    budget_of,
    claim_of,
    fields_of,
    job_of,
    parts_of,
    text_of,
    units_of,
)
from service.store.packing import unpacked
from tts.journal import Record
from tts.types import Budget, Problem

_FIGURES: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, float])


class Store:
    """What API and workers know of each other."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = connect(settings.redis_url)
        self.scripts = Scripts(self.redis, settings.patience_seconds)

    async def aclose(self) -> None:
        """Let what was asked for be sent, and let go of the connections."""
        await self.scripts.aclose()
        await self.redis.aclose()

    async def submit(
        self,
        tenant: str,
        specs: Sequence[Spec],
        *,
        store: bool = True,
        batch: Budget | None = None,
        order: Sequence[int] = (0,),
        idempotency: str | None = None,
        digest: str = "",
    ) -> str:
        """Take jobs, all of them or none: one, or a batch with one budget, to be run in some `order`. The id of the job
        or batch; that of an earlier one where the idempotency key was used before. Raises `Refusal`."""
        settings, budget = self.settings, batch or specs[0].budget
        ask: dict[str, Any] = {
            "tenant": tenant,
            "store": store,
            "retain": settings.retention_seconds * 1000,
            "linger": settings.linger_seconds * 1000,
            "most_queued": settings.most_queued,
            "tokens": budget.tokens,
            "usd": units_of(budget).get("usd"),
            "idempotency": idempotency,
            "digest": digest,
            "batch": "batch_" + secrets.token_hex(10) if batch else None,
            "budget": json.dumps(units_of(batch)) if batch else None,
            "listed": [spec.id for spec in specs] if batch else None,
        }
        given = json.dumps({name: value for name, value in ask.items() if value is not None})
        jobs = [part for i in order for part in parts_of(specs[i])]
        told, *rest = await self.scripts.run("submit", given, *jobs)
        if told in (b"accepted", b"same"):
            return cast(str, rest[0].decode())
        if told == b"conflict":
            raise Refusal("conflict", 0.0, rest[0].decode())
        raise Refusal(told.decode(), rest[0] / 1000, text_of(rest[1]))

    async def claim(self, worker: str, wanted: int) -> tuple[list[Claim], int]:
        """Up to so many jobs whose turn it is; and how many tenants still have one waiting."""
        settings = self.settings
        lease = int(settings.lease_seconds * 1000)
        claimed, turns = await self.scripts.run("claim", worker, wanted, lease, settings.attempts)
        return [claim for each in claimed if (claim := claim_of(each))], turns

    async def renew(self, worker: str, about: Mapping[str, Any], held: Mapping[str, int]) -> Pulse:
        """Keep the jobs that a worker has, by their fences; and give to others what nobody keeps any more."""
        lease = int(self.settings.lease_seconds * 1000)
        pairs = [part for item in held.items() for part in item]
        stale, cancelled, requeued = await self.scripts.run("renew", worker, lease, json.dumps(about), *pairs)
        return Pulse(frozenset(map(text_of, stale)), frozenset(map(text_of, cancelled)), requeued)

    async def release(self, held: Mapping[str, int]) -> int:
        """Hand jobs back, with all that was done of them; how many."""
        handed: int = await self.scripts.run("release", *(part for item in held.items() for part in item))
        return handed

    async def finish(
        self,
        claim: Claim,
        state: State,
        result: bytes,
        error: Mapping[str, Any] | None,
        counted: Increments | None = None,
    ) -> bool:
        """Write down how a job ended; false where it is somebody else's by now."""
        why, rows = json.dumps(error) if error else "", counted.pairs() if counted else ()
        told = await self.scripts.run("finish", claim.id, claim.fence, state, result, why, *rows)
        return bool(told == b"ok")

    async def cancel(self, tenant: str, id: str, *, purge: bool = False) -> State | None:
        """Ask that a job ends, keeping its best answer, or nothing of it. The state it had, None if there is none."""
        state = await self.scripts.run("cancel", tenant, id, int(purge))
        return state and cast(State, state.decode())

    async def job(self, tenant: str, id: str) -> Job | None:
        """A job of this tenant."""
        fields = await self.scripts.run("look", id)
        job = job_of(id, fields) if fields else None
        return job if job and job.tenant == tenant else None

    async def jobs(self, tenant: str, limit: int, before: float | None) -> list[Job]:
        """A tenant's jobs without results and specifications, the newest first."""
        newest = "+inf" if before is None else f"({before * 1e6:.0f}"
        return [job_of(text_of(name), fields) for name, fields in await self.scripts.run("list", tenant, newest, limit)]

    async def batch(self, tenant: str, id: str) -> Batch | None:
        """A batch of this tenant."""
        flat, jobs = await self.scripts.run("batch", id)
        found = fields_of(flat)
        if not found or found["tenant"] != tenant:
            return None
        return Batch(
            id=id,
            tenant=tenant,
            created=int(found["created"]) / 1000,
            budget=budget_of(found["budget"]),
            jobs=tuple(map(text_of, jobs)),
            ended=int(found["ended"]),
            spent_tokens=int(float(found.get("spent_tokens", 0))),
            spent_usd=float(found.get("spent_usd", 0)) / 1e9,
        )

    async def entries(self, job: Job, start: int) -> list[Record]:
        """A job's journal from its entry number `start` on; nothing where it is not kept."""
        if job.spec is None:
            return []
        told = await self.scripts.run("entries", job.id, start)
        return [unpacked(entry, job.spec.problem) for entry in told]

    async def follow(self, tenant: str, id: str, start: int, problem: Problem | None) -> Glimpse | None:
        """How a job of this tenant stands, and its journal from its entry number `start` on; where the `problem` is not
        kept, no journal is either."""
        told = await self.scripts.run("follow", tenant, id, start)
        if told is None:
            return None
        state, fence, entries = told
        return Glimpse(state.decode(), fence, (unpacked(each, problem) for each in entries if problem))

    async def spending(self, tenant: str) -> dict[str, float]:
        """What a tenant has spent and set aside in its present window, its limits, and its jobs."""
        spent, limits, count, left = await self.scripts.run("spending", tenant)
        figures = {**fields_of(spent), **{f"limit_{k}": v for k, v in fields_of(limits).items()}, **fields_of(count)}
        return {"left": left / 1000, **_FIGURES.validate_python(figures)}

    async def dead(self, most: int) -> list[tuple[str, str, float, str]]:
        """The newest dead letters: id, tenant, seconds since 1970, and why."""
        told = await self.scripts.run("dead", most)
        return [
            (text_of(id), text_of(tenant), int(at) / 1000, json.loads(why)["detail"]) for id, tenant, at, why in told
        ]

    async def metrics(self) -> bytes:
        """The page of all metrics: what was counted, and how things stand."""
        told, workers = await asyncio.gather(self.scripts.run("metrics", *names()), self.workers())
        counted, dead, oldest, tenants = told
        gauges = {row("tts_dead_letters"): dead, row("tts_queue_age_seconds"): oldest / 1000, **worker_gauges(workers)}
        for each in tenants:
            gauges |= tenant_gauges(each)
        grown = [(name, zip(flat[::2], flat[1::2], strict=True)) for name, flat in zip(names(), counted, strict=True)]
        standing = [(name.partition("{")[0], [(name.encode(), b"%.17g" % amount)]) for name, amount in gauges.items()]
        return page([*grown, *standing])

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Those that were alive a moment ago, and what they say of themselves."""
        told = await self.scripts.run("workers", int(self.settings.lease_seconds * 1000))
        return {name: json.loads(about) for name, about in fields_of(told).items()}
