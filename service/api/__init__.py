"""The service over HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from service import tracing
from service.api import jobs, openai, problems
from service.api.asking import Asking
from service.api.chat import ChatRequest
from service.api.door import Bounded
from service.api.news import News
from service.api.problems import Fault
from service.api.schemas import BatchRequest, Health, JobRequest, SolveRequest
from service.api.tickets import Tickets
from service.catalog import Catalog
from service.keys import Keys
from service.settings import Settings
from service.store import Store, Unreachable
from tts.solve import code_version

PAGE = "text/plain; version=0.0.4"
"""The format of `/metrics`."""
ABOUT = """Better answers for the compute you have: a problem and a budget in, the best answer that the budget can buy
and an exact bill out."""


def create_app(settings: Settings, send: Callable[[int], object]) -> FastAPI:
    """The API; `send` sends tickets for so many jobs, and may take its time."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        store = Store(settings)
        news, tickets = News(store), Tickets(send)
        catalog = Catalog(settings)
        app.state.keys = Keys(store.redis)
        app.state.desk = jobs.Desk(settings, store, Asking(settings, catalog), news, tickets)
        news.start()
        tickets.start()
        yield
        tickets.close()
        await news.aclose()
        await store.aclose()
        await asyncio.to_thread(tracing.stop)

    app = FastAPI(title="test-time-scaling", description=ABOUT, version=code_version(), lifespan=lifespan)
    app.state.settings = settings
    app.state.bodies = {"/v1/solve": SolveRequest, "/v1/jobs": JobRequest, "/v1/batches": BatchRequest}
    app.state.bodies["/v1/chat/completions"] = ChatRequest
    app.add_middleware(Bounded, settings=settings)
    problems.install(app)
    app.include_router(jobs.router)
    app.include_router(openai.router)
    _health(app)
    _metrics(app, settings)
    tracing.watch(app)
    return app


def _metrics(app: FastAPI, settings: Settings) -> None:
    token = settings.metrics_token.get_secret_value() if settings.metrics_token else None

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> PlainTextResponse:
        """All metrics, for Prometheus."""
        sent = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token is None and settings.auth == "keys":
            raise Fault(401, "key", "set TTS_METRICS_TOKEN, and let Prometheus send it as its bearer token")
        if token is not None and not secrets.compare_digest(sent.encode(), token.encode()):
            raise Fault(401, "key", "this is not the bearer token that TTS_METRICS_TOKEN says")
        return PlainTextResponse(await request.app.state.desk.store.metrics(), media_type=PAGE)


def _health(app: FastAPI) -> None:
    @app.get("/healthz", tags=["health"], response_model_exclude_none=True)
    async def healthz() -> Health:
        """Whether this process is alive."""
        return Health(status="alive")

    @app.get("/readyz", tags=["health"], responses={503: {"model": Health}})
    async def readyz(request: Request) -> JSONResponse:
        """Whether jobs can be taken and are worked on: the store answers, and some worker is alive."""
        try:
            workers = await request.app.state.desk.store.workers()
        except Unreachable:
            return JSONResponse(Health(status="the store cannot be reached").model_dump(), 503)
        if not workers:
            return JSONResponse(Health(status="no worker is alive").model_dump(), 503)
        return JSONResponse(Health(status="ready", workers=len(workers)).model_dump())


__all__ = ["create_app"]
