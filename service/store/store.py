"""Jobs in Redis: handed in, claimed, kept alive, ended, looked at."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

from pydantic import NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError

from service.metrics.rows import Increments, row
from service.metrics.standing import tenant_gauges, worker_gauges
from service.settings import Settings
from service.spec import OVER, Spec, State
from service.store.connection import Scripts, connect
from service.store.journal import nano
from service.store.packing import unpacked
from tts.cost import one_line
from tts.errors import TTSError
from tts.journal import Record
from tts.types import Budget, Noun, Problem

log = logging.getLogger("tts.store")
Reason = str
"""Why jobs were not taken: `rate`, `queue`, `budget`, `unbounded`, `conflict`."""


class Refusal(TTSError):
    """Jobs were not taken; nothing has changed. It is worth trying again in `wait` seconds."""

    def __init__(self, reason: Reason, wait: float, about: str) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.about = reason, wait, about


class Claim(NamedTuple):
    """A job that a worker has from now on, and the fence that its writes have to show."""

    fence: int
    tenant: str
    spec: Spec
    label: str
    """How metrics call the tenant."""
    waited: float
    """Seconds until it was started first."""

    @property
    def id(self) -> str:
        return self.spec.id


class Pulse(NamedTuple):
    """What a worker hears when it renews its leases."""

    stale: frozenset[str]
    cancelled: frozenset[str]
    requeued: int


class Glimpse(NamedTuple):
    """As much of a job as whoever follows it needs; `grown` is what its journal has more than the follower knows, read
    as it is asked for: of thousands of streams that wait, none holds records that it has passed on."""

    state: State
    fence: int
    grown: Iterator[Record]

    @property
    def over(self) -> bool:
        return self.state in OVER


class Job(Noun):
    """A job as it stands. Times are seconds since 1970; `spent_usd` is in dollars. `model` and `strategy` are what its
    `spec` says, and are known without it."""

    id: str
    tenant: str
    state: State
    model: str | None = None
    strategy: str | None = None
    created: NonNegativeFloat
    started: NonNegativeFloat | None = None
    ended: NonNegativeFloat | None = None
    batch: str | None = None
    worker: str | None = None
    fence: NonNegativeInt = 0
    spent_tokens: NonNegativeInt = 0
    spent_usd: NonNegativeFloat = 0.0
    cancelling: bool = False
    spec: Spec | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER


class Batch(Noun):
    """Many jobs with one budget. `jobs` are in the order in which the problems came."""

    id: str
    tenant: str
    created: NonNegativeFloat
    budget: Budget
    jobs: tuple[str, ...]
    ended: NonNegativeInt
    spent_tokens: NonNegativeInt
    spent_usd: NonNegativeFloat


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
            "usd": _units(budget).get("usd"),
            "idempotency": idempotency,
            "digest": digest,
            "batch": "batch_" + secrets.token_hex(10) if batch else None,
            "budget": json.dumps(_units(batch)) if batch else None,
            "listed": [spec.id for spec in specs] if batch else None,
        }
        given = json.dumps({name: value for name, value in ask.items() if value is not None})
        jobs = [part for i in order for part in _parts(specs[i])]
        told, *rest = await self.scripts.run("submit", given, *jobs)
        if told in (b"accepted", b"same"):
            return cast(str, rest[0].decode())
        if told == b"conflict":
            raise Refusal("conflict", 0.0, rest[0].decode())
        raise Refusal(told.decode(), rest[0] / 1000, _text(rest[1]))

    async def claim(self, worker: str, wanted: int) -> tuple[list[Claim], int]:
        """Up to so many jobs whose turn it is; and how many tenants still have one waiting."""
        settings = self.settings
        lease = int(settings.lease_seconds * 1000)
        claimed, turns = await self.scripts.run("claim", worker, wanted, lease, settings.attempts)
        return [claim for each in claimed if (claim := _claim(each))], turns

    async def renew(self, worker: str, about: Mapping[str, Any], held: Mapping[str, int]) -> Pulse:
        """Keep the jobs that a worker has, by their fences; and give to others what nobody keeps any more."""
        lease = int(self.settings.lease_seconds * 1000)
        pairs = [part for item in held.items() for part in item]
        stale, cancelled, requeued = await self.scripts.run("renew", worker, lease, json.dumps(about), *pairs)
        return Pulse(frozenset(map(_text, stale)), frozenset(map(_text, cancelled)), requeued)

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
        job = _job(id, fields) if fields else None
        return job if job and job.tenant == tenant else None

    async def jobs(self, tenant: str, limit: int, before: float | None) -> list[Job]:
        """A tenant's jobs without results and specifications, the newest first."""
        newest = "+inf" if before is None else f"({before * 1e6:.0f}"
        return [_job(_text(name), fields) for name, fields in await self.scripts.run("list", tenant, newest, limit)]

    async def batch(self, tenant: str, id: str) -> Batch | None:
        """A batch of this tenant."""
        flat, jobs = await self.scripts.run("batch", id)
        found = _fields(flat)
        if not found or found["tenant"] != tenant:
            return None
        return Batch(
            id=id,
            tenant=tenant,
            created=int(found["created"]) / 1000,
            budget=_budget(found["budget"]),
            jobs=tuple(map(_text, jobs)),
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
        figures = {**_fields(spent), **{f"limit_{k}": v for k, v in _fields(limits).items()}, **_fields(count)}
        return {"left": left / 1000, **_FIGURES.validate_python(figures)}

    async def dead(self, most: int) -> list[tuple[str, str, float, str]]:
        """The newest dead letters: id, tenant, seconds since 1970, and why."""
        told = await self.scripts.run("dead", most)
        return [(_text(id), _text(tenant), int(at) / 1000, json.loads(why)["detail"]) for id, tenant, at, why in told]

    async def metrics(self) -> dict[bytes, bytes]:
        """All rows of `/metrics`: what was counted, and how things stand."""
        (counted, dead, oldest, tenants), workers = await asyncio.gather(self.scripts.run("metrics"), self.workers())
        gauges = {row("tts_dead_letters"): dead, row("tts_queue_age_seconds"): oldest / 1000, **worker_gauges(workers)}
        for told in tenants:
            gauges |= tenant_gauges(told)
        rows = dict(zip(counted[::2], counted[1::2], strict=True))
        return rows | {name.encode(): f"{amount:.17g}".encode() for name, amount in gauges.items()}

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Those that were alive a moment ago, and what they say of themselves."""
        told = await self.scripts.run("workers", int(self.settings.lease_seconds * 1000))
        return {name: json.loads(about) for name, about in _fields(told).items()}


def _claim(told: Sequence[Any]) -> Claim | None:
    """None for a job of another version's: its lease will expire, and somebody else may understand it."""
    id, fence, tenant, blob, share, label, waited = told
    try:
        spec = Spec.model_validate_json(blob)
    except ValidationError as error:
        log.warning("job %s cannot be read by this version: %s", id.decode(), one_line(error))
        return None
    if share:
        spec = spec.model_copy(update={"budget": _budget(share)})
    return Claim(fence, tenant.decode(), spec, label.decode(), max(0.0, waited / 1000))


def _parts(spec: Spec) -> tuple[str, str, str, str]:
    """A job as it is handed in: what lists of jobs show of it, and all of it."""
    return spec.id, spec.model, spec.strategy.name, spec.model_dump_json()


def _units(budget: Budget) -> dict[str, float]:
    """A budget as scripts reckon with it: dollars in billionths, one at least."""
    given = budget.model_dump(exclude_none=True)
    return {**given, "usd": max(1, nano(given["usd"]))} if "usd" in given else given


def _budget(units: str | bytes) -> Budget:
    given = json.loads(units)
    return Budget(**({**given, "usd": given["usd"] / 1e9} if "usd" in given else given))


def _job(id: str, flat: Sequence[bytes]) -> Job:
    found = _fields(flat)
    times = {name: int(found[name]) / 1000 for name in ("started", "ended") if name in found}
    return Job(
        id=id,
        tenant=found["tenant"],
        state=cast(State, found["state"]),
        model=found.get("model"),
        strategy=found.get("strategy"),
        created=int(found["created"]) / 1e6,
        batch=found.get("batch"),
        worker=found.get("worker"),
        fence=int(found["fence"]),
        spent_tokens=int(found.get("spent_tokens", 0)),
        spent_usd=int(found.get("spent_usd", 0)) / 1e9,
        cancelling="cancel" in found and found["state"] not in OVER,
        spec=Spec.model_validate_json(found["spec"]) if "spec" in found else None,
        result=json.loads(found["result"]) if found.get("result") else None,
        error=json.loads(found["error"]) if "error" in found else None,
        **times,
    )


def _fields(flat: Sequence[bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _text(value: bytes | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
