"""Jobs over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel

from service import tracing
from service.api.asking import Asking, by_prefix
from service.api.door import Tenant, known_query
from service.api.events import Follower
from service.api.news import News
from service.api.problems import Fault, answered, no_job
from service.api.schemas import (
    BatchRequest,
    BatchView,
    BudgetView,
    JobList,
    JobRequest,
    JobView,
    Method,
    Methods,
    SolveRequest,
)
from service.api.streams import EventStream, Streams
from service.api.tickets import Tickets
from service.outcome import anonymous
from service.settings import Settings
from service.spec import Spec
from service.store import Store
from service.store.nouns import Batch, Job
from strategies import STRATEGIES
from tts.errors import JournalError
from tts.journal import Record, Settled
from tts.types import Budget
from verifiers import VERIFIERS

GLANCE = 2.0
"""Seconds after which whoever waits for a job looks without having been told."""
STATUS = {
    "no_images": 400,
    "cannot_be_done": 422,
    "model_unavailable": 503,
    "no_samples": 502,
    "internal": 500,
    "poison": 500,
}
"""How an error of a job is answered to somebody who waited for it."""

EVENT = {
    "type": "object",
    "description": "one event; `data` is JSON, an `id` can be sent as Last-Event-ID",
    "properties": {name: {"type": "string"} for name in ("event", "data", "id")},
    "required": ["event", "data"],
}

router = APIRouter(prefix="/v1", responses=answered(), dependencies=[Depends(known_query)])
JobId = Annotated[str, Path(max_length=200)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="the same key and body return the same job; with another body it is refused",
    ),
]


class Desk:
    """What the routes share: takes jobs in, and waits for them."""

    def __init__(self, settings: Settings, store: Store, asking: Asking, news: News, tickets: Tickets) -> None:
        self.settings, self.store, self.asking, self.news = settings, store, asking, news
        self._tickets = tickets
        self._later: set[asyncio.Task[Any]] = set()
        self.streams = Streams(settings.most_streams)

    def later(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Do something after its caller has gone."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def take(
        self,
        tenant: str,
        specs: Sequence[Spec],
        key: str | None,
        body: BaseModel,
        *,
        store: bool = True,
        batch: Budget | None = None,
    ) -> str:
        """Hand jobs in; the id of the job or batch."""
        same = f"{type(body).__name__} {body.model_dump_json()}" if key else ""
        digest = hashlib.sha256(same.encode()).hexdigest()
        if trace := tracing.carried():
            specs = [spec.model_copy(update={"trace": trace}) for spec in specs]
        id = await self.store.submit(
            tenant, specs, store=store, batch=batch, order=by_prefix(specs), idempotency=key, digest=digest
        )
        self._tickets.add(len(specs))
        return id

    async def found(self, tenant: str, id: str) -> Job:
        job = await self.store.job(tenant, id)
        if job is None:
            raise no_job(id)
        return job

    async def waited(self, tenant: str, id: str, seconds: float) -> Job:
        """The job when it has ended, or as it stands after so many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self.news.end_of(id) as ended:
            while True:
                job = await self.found(tenant, id)
                left = end - loop.time()
                if job.over or left <= 0:
                    return job
                await _set_by(ended, min(left, GLANCE))


async def _set_by(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than this."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def failed(job: Job) -> Fault:
    """Why a job has no answer."""
    error = job.error or {}
    code = str(error.get("code", "internal"))
    return Fault(STATUS.get(code, 500), code, str(error.get("detail", "")), job=job.id)


def desk(request: Request) -> Desk:
    """The one of this process."""
    found: Desk = request.app.state.desk
    return found


@router.post("/solve", responses={200: {"model": JobView}, 202: {"model": JobView}, **answered(500, 502)})
async def solve(request: Request, response: Response, tenant: Tenant, body: SolveRequest, key: Key = None) -> JobView:
    """Solve a problem, and wait for its answer: 200 with it, or 202 with the job if it takes longer than `wait`."""
    here = desk(request)
    wait = min(body.wait, here.settings.most_wait_seconds)
    end = asyncio.get_running_loop().time() + wait
    spec = here.asking.job(body)
    with here.news.end_of(spec.id) as ended:
        id = await here.take(tenant, [spec], key, body, store=body.store)
        if id == spec.id:  # one that was there before may have ended long ago
            await _set_by(ended, min(wait, GLANCE))
    job = await here.waited(tenant, id, end - asyncio.get_running_loop().time())
    if job.error:
        raise failed(job)
    response.status_code = 200 if job.over else 202
    response.headers["Location"] = f"/v1/jobs/{id}"
    return JobView.of(job)


@router.post("/jobs", status_code=202)
async def submit(request: Request, response: Response, tenant: Tenant, body: JobRequest, key: Key = None) -> JobView:
    """Hand in a problem, and go."""
    here = desk(request)
    spec = here.asking.job(body)
    id = await here.take(tenant, [spec], key, body, store=body.store)
    response.headers["Location"] = f"/v1/jobs/{id}"
    if id == spec.id:  # as it stood when it was taken: nobody waits for a second look
        return JobView.of(Job(id=id, tenant=tenant, state="queued", created=time.time(), spec=spec))
    return JobView.of(await here.found(tenant, id))


@router.get("/jobs")
async def jobs(
    request: Request,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    before: Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False, description="seconds since 1970")] = None,
) -> JobList:
    """Your jobs, the newest first, without their results."""
    found = await desk(request).store.jobs(tenant, limit, before)
    return JobList(jobs=[JobView.of(job) for job in found], next=found[-1].created if len(found) == limit else None)


@router.get("/jobs/{id}")
async def job(request: Request, tenant: Tenant, id: JobId) -> JobView:
    """A job as it stands, and its result when it has ended."""
    return JobView.of(await desk(request).found(tenant, id))


@router.delete("/jobs/{id}", status_code=202)
async def cancel(request: Request, tenant: Tenant, id: JobId, purge: bool = False) -> JobView:
    """Cancel a job: its requests are aborted, and its best answer so far is kept. With `purge` its problem, journal and
    result are removed, also those of a job that has ended."""
    here = desk(request)
    found = await here.found(tenant, id)
    await here.store.cancel(tenant, id, purge=purge)
    job = await here.store.job(tenant, id)
    return JobView.of(job or found.model_copy(update={"spec": None, "result": None}))


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": EVENT}}}},
)
async def events(
    request: Request,
    tenant: Tenant,
    id: JobId,
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=15, pattern=r"^[0-9]+$")] = None,
) -> EventStream:
    """What happens to a job as it happens, as server-sent events; a connection that broke goes on from
    `Last-Event-ID`."""
    here = desk(request)
    await here.found(tenant, id)
    follower = Follower(here.store, here.news, tenant, id, int(last) + 1 if last else 0)
    return EventStream(_told(follower, here.settings.heartbeat_seconds), here.streams.seat())


async def _told(follower: Follower, heartbeat: float) -> AsyncIterator[bytes]:
    async with aclosing(follower.events(heartbeat)) as events:
        async for event in events:
            if event is None:
                yield format_sse_event(data_str=None, comment="still here")
            else:
                yield format_sse_event(event=event.name, data_str=event.data, id=event.id)


@router.get(
    "/jobs/{id}/trace",
    response_class=Response,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}, **answered(500)},
)
async def trace(request: Request, tenant: Tenant, id: JobId) -> Response:
    """A job's journal, one JSON object a line: `tts replay FILE` shows its result and its search."""
    here = desk(request)
    found = await here.found(tenant, id)
    if found.spec is None:
        raise Fault(404, "no_trace", "this job's journal is not kept: it was handed in with store: false", job=id)
    try:
        records = await here.store.entries(found, 0)
    except JournalError as error:
        raise Fault(500, "journal", f"this journal cannot be read by this version: {error}", job=id) from error
    return Response("".join(map(_line, records)), media_type="application/jsonl")


def _line(record: Record) -> str:
    if isinstance(record, Settled) and record.error:
        record = record.model_copy(update={"error": anonymous(record.error)})
    return f"{record.model_dump_json()}\n"


@router.post("/batches", status_code=202)
async def batches(
    request: Request, response: Response, tenant: Tenant, body: BatchRequest, key: Key = None
) -> BatchView:
    """Hand in many problems with one budget. Those that begin alike are solved one after the other."""
    here = desk(request)
    specs, budget = here.asking.batch(body)
    id = await here.take(tenant, specs, key, body, store=body.store, batch=budget)
    response.headers["Location"] = f"/v1/batches/{id}"
    return BatchView.of(await _batch(here, tenant, id))


@router.get("/batches/{id}")
async def batch(request: Request, tenant: Tenant, id: JobId) -> BatchView:
    """A batch as it stands."""
    return BatchView.of(await _batch(desk(request), tenant, id))


@router.delete("/batches/{id}", status_code=202)
async def cancel_batch(request: Request, tenant: Tenant, id: JobId, purge: bool = False) -> BatchView:
    """Cancel all of a batch's jobs that have not ended; with `purge`, remove all of them."""
    here = desk(request)
    found = await _batch(here, tenant, id)
    await asyncio.gather(*(here.store.cancel(tenant, job, purge=purge) for job in found.jobs))
    return BatchView.of(await _batch(here, tenant, id))


async def _batch(here: Desk, tenant: str, id: str) -> Batch:
    found = await here.store.batch(tenant, id)
    if found is None:
        raise Fault(404, "no_batch", f"there is no batch {id[:80]!r}")
    return found


@router.get("/strategies")
async def strategies(tenant: Tenant) -> Methods:
    """How problems can be solved and solutions judged, and the JSON Schemas of what can be set."""
    return Methods(strategies=_methods(STRATEGIES), verifiers=_methods(VERIFIERS))


def _methods(known: Any) -> list[Method]:
    return [Method(name=name, when=each.when, parameters=each.model_json_schema()) for name, each in known.items()]


@router.get("/budget")
async def budget(request: Request, tenant: Tenant) -> BudgetView:
    """What you have spent in this window, and may still spend."""
    return BudgetView.of(tenant, await desk(request).store.spending(tenant))
