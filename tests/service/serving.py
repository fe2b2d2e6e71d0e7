"""The service in one event loop: the API as an ASGI application, workers beside it, and a real Valkey behind both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import httpx
import uvicorn
from fastapi import FastAPI

from service.api import create_app
from service.api.jobs import Desk
from service.catalog import Catalog
from service.settings import Settings
from service.spec import Part, Spec
from service.store import Store
from service.worker.bench import Bench
from service.worker.engine import Engine
from tests.fakes import PROBLEM
from tts.journal import Held, Settled
from tts.types import NOTHING, Budget, Completion, Sampling, Spend, Usage

PATIENCE = 20.0
"""Seconds after which a test stops waiting for what should have happened."""
ASKED: dict[str, Any] = {
    "problem": "How many pencils?",
    "answer": "maths",
    "strategy": "best_of_n:n=4",
    "budget": {"tokens": 200},
}


class Served(NamedTuple):
    """A running service: a client of its API, what the API shares, the workers, and their Redis."""

    client: httpx.AsyncClient
    app: FastAPI
    engines: list[Engine]
    store: Store

    @property
    def desk(self) -> Desk:
        desk: Desk = self.app.state.desk
        return desk

    async def ended(self, id: str, **headers: str) -> dict[str, Any]:
        """A job when it is over."""

        async def over() -> bool:
            job.update((await self.client.get(f"/v1/jobs/{id}", headers=headers)).json())
            return job["ended"] is not None

        job: dict[str, Any] = {}
        await until(over)
        return job


@asynccontextmanager
async def serving(settings: Settings, workers: int = 1) -> AsyncIterator[Served]:
    """The service with so many workers; the client talks to the application in process."""
    loop, engines = asyncio.get_running_loop(), list[Engine]()

    def send(jobs: int) -> None:
        for engine in engines:
            loop.call_soon_threadsafe(engine.ticket, jobs)

    app = create_app(settings, send)
    engines += [engine(settings) for _ in range(workers)]
    tasks = [asyncio.create_task(each.run()) for each in engines]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    store = Store(settings)
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://t") as client,
        ):
            yield Served(client, app, engines, store)
    finally:
        for each in engines:
            each.stop()
        await asyncio.gather(*tasks)
        await store.aclose()


def engine(settings: Settings, **options: Any) -> Engine:
    """A worker that is not running yet."""
    return Engine(settings, Store(settings), Bench(settings, Catalog(settings)), **options)


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A real server for an application whose lifespan has begun: for streams, and for clients that go away."""
    config = uvicorn.Config(app, lifespan="off", log_level="error", ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        task = asyncio.create_task(server.serve([bound]))
        try:
            url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
                yield client
        finally:
            server.should_exit = True
            await task


def spec(id: str, tokens: int = 200, **options: Any) -> Spec:
    """A small job."""
    given = {"budget": Budget(tokens=tokens), "strategy": Part(name="best_of_n", parameters={"n": 4}), **options}
    return Spec(id=id, problem=PROBLEM, model="default", sampling=Sampling(max_tokens=64), **given)


def completion(text: str) -> Completion:
    """A sample of one token."""
    usage = Usage.of(prompt=5, cached=0, completion=1, seconds=0.1)
    return Completion(text=text, token_ids=(7,), logprob=-0.5, self_certainty=None, finish="stop", usage=usage)


def held(key: str, most: Spend = NOTHING) -> Held:
    """A call that may cost up to so much."""
    return Held(
        key=key, role="policy", id=key, request="r", start="s", parent=None, forced="", granted=9, most=most, at=0.0
    )


def settled(key: str, outcome: Literal["completed", "lost"] = "completed", spend: Spend = NOTHING) -> Settled:
    """How a call ended, and what it cost."""
    return Settled(
        key=key,
        role="policy",
        request="r",
        outcome=outcome,
        reason=None,
        error=None,
        segments=(completion("so"),) if outcome == "completed" else (),
        spend=spend,
        remaining=None,
        at=0.0,
    )


async def until(condition: Any) -> None:
    """Wait until an async condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)
