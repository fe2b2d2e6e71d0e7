"""The API is as its OpenAPI document says, whatever it is sent: no failures of ours, no status and no answer that it
does not document. What is sent is drawn by schemathesis, valid and not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as drawn
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.schemas import BaseSchema

from service.api import create_app
from service.keys import Keys
from service.settings import Settings
from service.store.connection import connect
from tests.service.serving import ASKED, engine

OPERATIONS = [
    (path, method)
    for path, item in create_app(Settings(), lambda jobs: None).openapi()["paths"].items()
    for method in item
]
EXAMPLES = 25
ASKED_ONLY = {"problem": ASKED["problem"], "answer": "maths"}
MANNER = {"budget": {"tokens": 100}, "strategy": "single"}
UNCHECKED = ("positive_data_acceptance", "negative_data_rejection")
"""What is valid by its schema may still be impossible: a strategy that does not exist, a budget that is too large. And
what is drawn as invalid may be sent as valid: a key in place of a broken one, an empty list as no parameter at all."""


@pytest.fixture(scope="module")
def app(server: str) -> Iterator[FastAPI]:
    """With a worker in a thread of its own; requests come from another one."""
    settings = Settings(
        redis_url=server,
        auth="keys",
        default_model="fake:tests.handlers:quick",
        drain_seconds=0,
        most_wait_seconds=1,
        most_queued=10**9,
        heartbeat_seconds=0.2,
    )
    loop, started = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
    workers: list[Any] = []

    async def work() -> None:
        workers.append(engine(settings))
        started.set()
        await workers[0].run()

    thread.start()
    started.wait()
    yield create_app(settings, lambda jobs: loop.call_soon_threadsafe(workers[0].ticket, jobs))
    loop.call_soon_threadsafe(workers[0].stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def schema(app: FastAPI) -> BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.fixture
def headers(server: str, app: FastAPI) -> dict[str, str]:
    async def made() -> str:
        async with connect(server) as redis:
            return await Keys(redis).create("a")

    return {"Authorization": f"Bearer {asyncio.run(made())}"}


def found(path: str, schema: BaseSchema, headers: dict[str, str]) -> dict[str, str]:
    """The parameters of a path, so that there is something at it."""
    kind = "batches" if "batches" in path else "jobs"
    body: Any = {"problems": [ASKED_ONLY], **MANNER} if kind == "batches" else ASKED
    case = schema[f"/v1/{kind}"]["post"].Case(body=body, media_type="application/json")
    return {"id": case.call(headers=headers).json()["id"]}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_api_is_as_documented(
    path: str, method: str, mode: GenerationMode, schema: BaseSchema, headers: dict[str, str]
) -> None:
    operation, positive = schema[path][method], mode is GenerationMode.POSITIVE
    if not positive and not operation.body and not list(operation.iter_parameters()):
        pytest.skip("there is nothing to get wrong")
    there = found(path, schema, headers) if positive and "{" in path else None
    unchecked: Any = CHECKS.get_by_names(list(UNCHECKED))

    @drawn(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None)
    @given(operation.as_strategy(generation_mode=mode, path_parameters=there))
    def holds(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(headers=headers, excluded_checks=unchecked)

    holds()


def test_every_problem_is_documented_as_what_it_is(app: FastAPI) -> None:
    for path, method in OPERATIONS:
        for status, answer in app.openapi()["paths"][path][method]["responses"].items():
            if path.startswith("/v1") and status >= "400":
                media = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
                assert answer["content"] == media, (path, method, status)
