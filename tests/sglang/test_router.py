"""Behind sglang-router, which knows neither aborts nor loads: both go to its workers."""

from __future__ import annotations

import asyncio
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from evals.sglang_cpu import PYTHON, Server, free_port
from tests.sglang.conftest import connected, request
from tts.backends.sglang import SGLangBackend
from tts.halt import Halt
from tts.types import Completion, Sampling

STARTING = 60.0


@pytest.fixture(scope="module")
def router(servers: dict[str, Server]) -> Iterator[str]:
    url = f"http://127.0.0.1:{free_port()}"
    workers = [servers["policy"].url]
    metrics = ("--prometheus-port", str(free_port()))
    launch = [str(PYTHON), "-m", "sglang_router.launch_router", "--disable-retries", *metrics]
    process = subprocess.Popen(
        [*launch, "--worker-urls", *workers, "--port", url.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(url)
        yield url
    finally:
        process.kill()
        process.wait()


def wait_for(url: str) -> None:
    until = time.monotonic() + STARTING
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/workers", timeout=5.0) as page:
                if b'"is_healthy":true' in page.read():
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise TimeoutError(f"no router at {url}")


def test_a_halt_reaches_the_engine_and_the_bill_is_its_count(policy: Server, router: str) -> None:
    async def halted(backend: SGLangBackend) -> tuple[Completion, float]:
        halt = Halt()
        call = asyncio.create_task(
            backend.generate(request(backend, sampling=Sampling(temperature=1.0, max_tokens=900), halt=halt))
        )
        await asyncio.sleep(0.2)
        halt.set("cancelled")
        began = time.monotonic()
        return await call, time.monotonic() - began

    before = policy.counted("sglang:generation_tokens_total")
    done, seconds = connected([router], halted)
    assert done.finish == "halted"
    assert seconds < 1.5
    assert done.usage.completion_tokens == policy.counted("sglang:generation_tokens_total") - before - 1


def test_prefixes_are_shared_as_they_are_without_a_router(router: str) -> None:
    async def many(backend: SGLangBackend) -> list[Completion]:
        return await asyncio.gather(*(backend.generate(request(backend)) for _ in range(6)))

    done = connected([router], many)
    assert all(each.usage.cached_tokens == each.usage.prompt_tokens - 1 for each in done[1:])
