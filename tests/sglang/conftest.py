"""Real servers: two replicas of the lab's policy, its process reward model, and a proxy that can fail for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path as File
from typing import Any, TypeVar

import pytest

from evals.sglang_cpu import PYTHON, Server, free_port
from tts.backends.base import Request
from tts.halt import Halt
from tts.types import Message, Path, Sampling

pytest.importorskip("aiohttp", reason="the SGLang backend's extra is not installed")
from aiohttp import ClientSession, web

from tts.backends.sglang import SGLangBackend

MODELS = File("evals/lab/models")
POLICY, REWARD = MODELS / "chain-2m", MODELS / "chain-2m-prm"
QUESTION = "y=22*7\nc=g-m\nq=18+u\nj=m*a\ne=c+20\nx=6+g\nd=m-a\nr=16-15\nu=e*19\nf=g+m\ng=6-19\na=16*7\nm=y*18\nj,d,u?"
GREEDY = Sampling(temperature=0.0, max_tokens=256)
NUMBERS = count()
T = TypeVar("T")

if not PYTHON.is_file():
    collect_ignore_glob = ["test_*.py"]
    pytest.skip("no SGLang is installed for these tests; `make sglang` does it", allow_module_level=True)


@contextmanager
def serving(servers: dict[str, Server]) -> Iterator[dict[str, Server]]:
    """The servers, started together and all of them ready."""
    try:
        for server in servers.values():
            server.start()
        for server in servers.values():
            server.ready()
        yield servers
    finally:
        for server in servers.values():
            server.kill()


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, Server]]:
    """For all tests; whatever one of them kills is started anew for the next."""
    with serving({"policy": Server(POLICY), "twin": Server(POLICY), "reward": Server(REWARD)}) as started:
        yield started


@pytest.fixture
def policy(servers: dict[str, Server]) -> Server:
    return servers["policy"]


@pytest.fixture
def reward(servers: dict[str, Server]) -> Server:
    return servers["reward"]


@pytest.fixture
def twin(servers: dict[str, Server]) -> Server:
    """A replica that a test may kill: it is started anew for the next."""
    server = servers["twin"]
    if server.over:
        server.start().ready()
    return server


def connected(urls: list[str], main: Callable[[SGLangBackend], Coroutine[Any, Any, T]], patience: float = 10.0) -> T:
    """Run something with a backend, and close it."""

    async def run() -> T:
        backend = await SGLangBackend.open(urls, patience=patience)
        try:
            return await main(backend)
        finally:
            await backend.aclose()

    return asyncio.run(run())


def question(text: str = QUESTION) -> Path:
    return Path(start=(Message(role="user", content=text),))


def request(
    backend: SGLangBackend,
    path: Path | None = None,
    sampling: Sampling = GREEDY,
    *,
    halt: Halt | None = None,
    **more: Any,
) -> Request:
    """A request of an id of its own: some seconds after a stream's end its server aborts whoever has its id."""
    path = path or question()
    return Request(
        id=f"job:{next(NUMBERS):06};",
        path=path,
        prompt_tokens=backend.prompt_tokens(path),
        max_tokens=sampling.max_tokens,
        sampling=sampling,
        seed=0,
        halt=halt or Halt(),
        **more,
    )


Fault = Callable[[web.Request, ClientSession], Coroutine[Any, Any, web.StreamResponse | None]]


@asynccontextmanager
async def proxy(target: Server, fault: Fault) -> AsyncIterator[str]:
    """A server that passes everything on to another one, but for what `fault` answers itself."""
    async with ClientSession() as session:

        async def handle(asked: web.Request) -> web.StreamResponse:
            answer = await fault(asked, session)
            return answer or await passed_on(asked, session, target.url)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


async def passed_on(asked: web.Request, session: ClientSession, target: str, limit: int | None = None) -> Any:
    """The target's answer, as it comes; broken off after `limit` bytes."""
    body = await asked.read()
    async with session.request(
        asked.method, target + asked.path_qs, data=body, headers={"Content-Type": "application/json"}
    ) as reply:
        answer = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.content_type})
        await answer.prepare(asked)
        sent = 0
        async for piece in reply.content.iter_any():
            await answer.write(piece if limit is None else piece[: max(0, limit - sent)])
            sent += len(piece)
            if limit is not None and sent > limit:
                assert asked.transport is not None
                asked.transport.close()
                break
        return answer
