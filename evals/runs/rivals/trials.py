"""One trial: a tool solves some problems in a process of its own, while the proxy and the server count."""

from __future__ import annotations

import asyncio
import json
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as File
from typing import Literal

from aiohttp import ClientSession

from evals.runs.rivals.proxy import Proxy
from evals.runs.rivals.tools import STATED, Tool
from evals.suites import Item
from tts.errors import BackendError
from tts.types import Noun, Sampling

Phase = Literal["plain", "failing", "cancelled", "accounting"]
PATIENCE = 600.0
"""Seconds for a trial's jobs."""
MIDWAY = 200
"""Tokens a job, on average, after which all are cancelled: about a quarter of what they would cost."""
QUIET = 1.0
"""Seconds without a token after which nothing more is coming."""


class Outcome(Noun):
    """How a job ended: what the tool gave as its answer's text, and the tokens it says that it used, if it does."""

    id: str
    text: str | None
    tokens: int | None
    seconds: float
    error: str | None


class Trial(Noun):
    """One tool, phase and seed. `counted` are the tokens that passed the proxy, `metered` those that the server says
    that it generated, aborted requests included, `after` those of them that came after the cancellation."""

    key: str
    tool: str
    phase: Phase
    seed: int
    jobs: int
    outcomes: tuple[Outcome, ...]
    calls: int
    failed: int
    cut: int
    counted: int
    metered: int
    after: int | None


@dataclass(frozen=True)
class Meter:
    """The server's own counters."""

    server: str
    session: ClientSession

    async def read(self) -> tuple[int, int]:
        """Tokens of requests that are done, and tokens decoded: all but the first one of every request, but at once."""
        async with self.session.get(f"{self.server}/metrics") as response:
            lines = (await response.text()).splitlines()
        decoded = [line for line in lines if 'mode="decode"' in line]
        return _total(lines, "sglang:generation_tokens_total{"), _total(decoded, "sglang:realtime_tokens_total{")

    async def reach(self, decoded: int) -> None:
        """Return once so many tokens were decoded."""
        while (await self.read())[1] < decoded:  # noqa: ASYNC110  it is another process that counts
            await asyncio.sleep(0.05)

    async def settle(self) -> tuple[int, int]:
        """What it reads once nothing is generated any more."""
        last = await self.read()
        while True:
            await asyncio.sleep(QUIET)
            now = await self.read()
            if now == last:
                return now
            last = now


def _total(lines: Sequence[str], name: str) -> int:
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(name))


@dataclass(frozen=True)
class Bench:
    """Where trials are run."""

    proxy: Proxy
    url: str
    meter: Meter
    model: str
    sampling: Sampling
    concurrency: int
    logs: File

    async def trial(self, key: str, tool: Tool, phase: Phase, seed: int, items: Sequence[Item]) -> Trial:
        """Run one, from a server at rest to a server at rest."""
        done, decoded = await self.meter.read()
        self.proxy.reset(seed if phase == "failing" else None)
        after = None
        async with self._driver(tool, phase, seed, items) as driver:
            if phase == "cancelled":
                await asyncio.wait_for(self.meter.reach(decoded + MIDWAY * len(items)), PATIENCE)
                after = await self._cancel(driver, tool)
            outcomes = await asyncio.wait_for(_outcomes(driver, len(items), phase), PATIENCE)
        now_done, _ = await self.meter.settle()
        counts = self.proxy.counts
        return Trial(
            key=key,
            tool=str(tool),
            phase=phase,
            seed=seed,
            jobs=len(items),
            outcomes=tuple(outcomes),
            calls=counts.calls,
            failed=counts.failed,
            cut=counts.cut,
            counted=counts.tokens,
            metered=now_done - done,
            after=after,
        )

    @asynccontextmanager
    async def _driver(self, tool: Tool, phase: Phase, seed: int, items: Sequence[Item]) -> AsyncIterator[Process]:
        setup = {
            "url": self.url,
            "model": self.model,
            "setup": tool.setup,
            "seed": seed,
            "temperature": self.sampling.temperature,
            "max_tokens": self.sampling.max_tokens,
            "concurrency": self.concurrency,
            "pattern": STATED,
        }
        jobs = [
            {"id": item.problem.id, "prompt": item.problem.messages[0].content, "n": tool.samples(i)}
            for i, item in enumerate(items)
        ]
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{tool}.log").open("ab") as log:
            driver = await asyncio.create_subprocess_exec(tool.python, tool.driver, stdin=PIPE, stdout=PIPE, stderr=log)
            try:
                _tell(driver, *map(json.dumps, (setup, *jobs)), "")
                yield driver
                _stdin(driver).close()
                await driver.wait()
            finally:
                if driver.returncode is None:
                    driver.kill()
                    await driver.wait()

    async def _cancel(self, driver: Process, tool: Tool) -> int:
        """Cancel as the tool's users would; the tokens that were generated all the same."""
        _, before = await self.meter.read()
        if tool.interrupted:
            driver.send_signal(signal.SIGINT)
        else:
            _tell(driver, "cancel")
        return (await self.meter.settle())[1] - before


def _stdin(driver: Process) -> asyncio.StreamWriter:
    assert driver.stdin is not None
    return driver.stdin


def _tell(driver: Process, *lines: str) -> None:
    _stdin(driver).write("".join(f"{line}\n" for line in lines).encode())


async def _outcomes(driver: Process, jobs: int, phase: Phase) -> list[Outcome]:
    """What the driver says of its jobs; of cancelled ones it need not say anything."""
    assert driver.stdout is not None
    if phase == "cancelled":
        _stdin(driver).close()
    found: list[Outcome] = []
    while len(found) < jobs and (line := await driver.stdout.readline()):
        found.append(Outcome.model_validate_json(line))
    if len(found) < jobs and phase != "cancelled":
        raise BackendError("the driver ended too early; its log says why")
    return found
