"""The API is as its OpenAPI document says, whatever it is sent: no failures of ours, no status and no answer that is not
documented. What is sent is drawn by schemathesis, valid and not."""

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
from service.settings import Settings
from tests.service.serving import engine

OPERATIONS = [
    (path, method)
    for path, item in create_app(Settings(), lambda jobs: None).openapi()["paths"].items()
    for method in item
]
EXAMPLES = 15
UNCHECKED = ("positive_data_acceptance",)
"""What is valid by its schema may still be impossible: a strategy that does not exist, a budget that is too large."""


@pytest.fixture(scope="module")
def app(server: str) -> Iterator[FastAPI]:
    """With a worker in a thread of its own; requests come from another one."""
    settings = Settings(
        redis_url=server,
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


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_api_is_as_documented(path: str, method: str, mode: GenerationMode, schema: BaseSchema) -> None:
    unchecked = CHECKS.get_by_names(list(UNCHECKED))

    @drawn(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None)
    @given(schema[path][method].as_strategy(generation_mode=mode))
    def holds(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=unchecked)

    holds()
